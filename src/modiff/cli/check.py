"""`modiff check PATH`: what is wrong or suspicious in a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modiff.cli.options import parser_of
from modiff.config.fields import Parser

if TYPE_CHECKING:
    from modiff.data.check.findings import Report


class _Parser(Parser):
    """Takes what follows -- as the source's options, wherever the other arguments stand."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(args or [])
        end = words.index("--") if "--" in words else len(words)
        parsed = super().parse_args(words[:end], namespace)
        parsed.words = words[end + 1 :]
        return parsed


def parser(prog: str) -> argparse.ArgumentParser:
    """All arguments."""
    return parser_of("check", prog, _Parser)


def run(args: argparse.Namespace) -> int:
    """Prints what was found; returns 0 for data that is usable, else 2, as the import would."""
    from modiff.data.check.run import check
    from modiff.io.output import check_file_output
    from modiff.plain import json_text

    if args.html:
        check_file_output(args.html)
    model = None
    if args.model is not None:
        from modiff.methods.run_folder import DATA, model_folder, read_data

        model = read_data(model_folder(args.model) / DATA)
    report = check(args.path, kind=args.kind, words=args.words, quiet=args.quiet, model=model)
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
