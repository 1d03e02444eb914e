"""`modiff check PATH`: what is wrong or suspicious in a data set."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from modiff.cli.options import parser_of

if TYPE_CHECKING:
    from modiff.data.check.findings import Report


parser = partial(parser_of, "check")


def run(args: argparse.Namespace) -> int:
    """Prints what was found; returns 0 for data that is usable, else 2, as the import would."""
    from modiff.data.check.run import check
    from modiff.io.files import check_file_output
    from modiff.io.text import json_text

    if args.html:
        check_file_output(args.html)
    report = check(args.path, kind=args.kind, words=args.words, quiet=args.quiet)
    if args.html:
        from modiff.report.data import write_page

        write_page(report, args.html)
    if args.json:
        found = [vars(finding) for finding in report.findings]
        about = {"path": report.path, "what": report.what, "usable": report.usable, "findings": found}
        print(json_text(about, indent=2))
    else:
        _show(report, max(args.show, 1))
        if args.html:
            print(f"page: {args.html}")
    return 0 if report.usable else 2


def _show(report: Report, each: int) -> None:
    print(f"{report.path}: {report.what}")
    for level, kind, found in report.groups():
        count = f" ({len(found)})" if len(found) > 1 else ""
        print(f"\n{level}: {kind}{count}")
        for finding in found[:each]:
            print(f"  {finding.case}: {finding.text}" if finding.case else f"  {finding.text}")
        if len(found) > each:
            print(f"  and {len(found) - each} more")
    print(f"\n{report.verdict}" if report.findings else report.verdict)
