"""The budget: one notion of time slice for whatever runs on the event loop beside the fan-out.

Parsing a query, filtering rows of a snapshot, catching up, decoding a large post, listing ten
thousand connections: each may take longer than a turn of the loop should, and many may be wanted
at once. All of it is handed in as steps (a generator that yields where it may rest), under the
owner it is done for, and is done a slice a turn:

    work --put--> owner's lane --+
    work --put--> owner's lane --+--> Scheduler.serve: one slice --> the loop turns --> next slice
    work --put--> other owner ---+

Who owns which fact: `Scheduler` whose turn it is and who has used how much (no I/O, a clock is
handed in); `Budget` when the next slice is due on an event loop; `Slots` who may use a scarce
thing for long, such as a thread that reads the file. What a step does, and what an ended client
means for it, is the business of whoever hands it in: he keeps the Work and cancels it.
"""

from kalam_notify.budget.scheduler import Budget, Owner, Scheduler, Slots, Steps, Work, at_once

__all__ = ["Budget", "Owner", "Scheduler", "Slots", "Steps", "Work", "at_once"]
