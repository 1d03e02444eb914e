"""`modiff check PATH`: what is wrong or suspicious in a data set."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from modiff.config.help import verb_parser

if TYPE_CHECKING:
    from modiff.data.check.findings import Report


def parser(prog: str) -> argparse.ArgumentParser:
    """The arguments of `modiff check`."""
    made = verb_parser(
        prog,
        "Says in words what is wrong or suspicious in a data set, with the case: a store, a folder of "
        "images and masks, or any source that `modiff import` reads. Files that cannot be read or do not fit, raters "
        "that are flipped, shifted, inverted, copies of each other or far off, odd mask values, constant images, the "
        "same image in two splits. Ends with 0 if the data is usable, with 1 if not.",
        epilog="Options after -- are those of `modiff import SOURCE`, e.g. -- --mask '{case}/seg_{rater}.nii.gz'.",
        usage=f"{prog} PATH [--as SOURCE] [--html PAGE] [--json] [-- options of the source]",
    )
    made.add_argument("path", metavar="PATH", help="a store, a folder, or a source of `modiff import`")
    made.add_argument("--as", dest="kind", metavar="SOURCE", help="what it is: store, folder or the name of a source")
    made.add_argument("--html", metavar="PAGE", help="also write a page with thumbnails")
    made.add_argument("--json", action="store_true", help="print every finding as JSON")
    made.add_argument(
        "--show", type=int, default=5, metavar="N", help="findings of a kind printed (default %(default)s)"
    )
    made.add_argument("words", nargs="*", metavar="-- …", help=argparse.SUPPRESS)
    return made


def run(args: argparse.Namespace) -> int:
    """Prints what was found; returns 0 for data that is usable, else 1."""
    from modiff.data.check.run import check

    report = check(args.path, kind=args.kind, words=args.words)
    if args.html:
        from modiff.report.data import write_page

        write_page(report, args.html)
    if args.json:
        found = [vars(finding) for finding in report.findings]
        about = {"path": report.path, "what": report.what, "usable": report.usable, "findings": found}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        _show(report, max(args.show, 1))
        if args.html:
            print(f"page: {args.html}")
    return 0 if report.usable else 1


def _show(report: Report, each: int) -> None:
    print(_plain(f"{report.path}: {report.what}"))
    for level, kind, found in report.groups():
        count = f" ({len(found)})" if len(found) > 1 else ""
        print(f"\n{level}: {kind}{count}")
        for finding in found[:each]:
            print(_plain(f"  {finding.case}: {finding.text}" if finding.case else f"  {finding.text}"))
        if len(found) > each:
            print(f"  and {len(found) - each} more")
    print(f"\n{report.verdict}" if report.findings else report.verdict)


def _plain(text: str) -> str:
    """Names are other people's text: what would steer a terminal is shown as a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
