"""The campaign: does modiff stand damage, stops, full disks and hostile files? `python -m tools.campaign --help`.

`run` starts commands in forked processes and measures them; `scenes` has what they work on; each other module holds
kinds of tries. A try is a function of the seed, its kind, its target and its number, so that each can be repeated.
"""
