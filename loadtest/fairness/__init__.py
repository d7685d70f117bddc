"""What may one client do to the others?

Every scenario starts a server of its own, with the rates that it has by default, and watches a
healthy crowd twice in the same run: calm, and while one client or one user loads the server. The
table shows each figure under load beside the calm one (`floor`).

scenarios.py  the loads, and what they are held to
healthy.py    the crowd that is watched: live changes, /readyz, a snapshot, a resume, a newcomer
attacker.py   a process that sends prepared frames, as fast as it is told
frames.py     how these frames are made
"""

from collections.abc import Sequence

from loadtest.fairness.healthy import Crowd, Seen
from loadtest.fairness.scenarios import SCENARIOS, Scenario
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.stage import Bench


async def measure(bench: Bench, scenario: Scenario) -> list[Measurement]:
    """The crowd calm and under load, and what else the scenario asks."""
    bench.progress.step(f"{scenario.name}: a fresh server")
    async with bench.stage() as stage:
        server = await stage.server(messages_per_second=50, message_burst=200)
        crowd = await Crowd.gather(bench, stage, server, scenario.rows())
        load = await scenario.load(bench, stage, server, crowd)
        seconds = bench.options.time(scenario.seconds)
        await crowd.watch(bench.options.time(1))  # the first rows find all cold
        bench.progress.step(f"{scenario.name}: calm")
        calm = await crowd.watch(seconds)
        bench.progress.step(f"{scenario.name}: under load")
        await load.begin()
        loaded = await crowd.watch(seconds)
        more = await load.end()
        await crowd.check()
    return [*figures(scenario, calm, loaded), *more]


def figures(scenario: Scenario, calm: Seen, loaded: Seen) -> list[Measurement]:
    told = []
    before = calm.milliseconds()
    for figure, value in loaded.milliseconds().items():
        floor = before[figure]
        bar: Bar | None = scenario.bars.get(figure)
        ratio = value / floor if floor else None
        told.append(Measurement(f"{scenario.name}: {figure}", value, "ms", floor, ratio, bar))
    return told


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    told: list[Measurement] = []
    for name in bench.options.scenarios or tuple(SCENARIOS):
        try:
            told += await measure(bench, SCENARIOS[name])
        except* DeliveryFault as group:
            # That is a result too, and the worst: the other scenarios are taken all the same.
            told.append(let_down(bench, name, group))
    return told


def let_down(bench: Bench, name: str, group: BaseExceptionGroup[DeliveryFault]) -> Measurement:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    bench.note(f"FAULT: {name}: {first}")
    case = f"{name}: a healthy client was cut off, or missed a change"
    return Measurement(case, 1, "faults", bar=Bar("at most", 0))


QUESTION = Question("fairness", "What one client may do to the others (floor: calm)", run)
