"""All questions by name."""

from loadtest import (
    burst,
    cluster,
    compression,
    fairness,
    fanout,
    filters,
    ingest,
    latency,
    memory,
    paths,
    several,
    slow,
    snapshot,
    source,
    store,
    storm,
    workers,
)
from loadtest.harness.question import Question
from loadtest.soak import question as soak

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (
        fanout,
        several,
        burst,
        filters,
        memory,
        storm,
        ingest,
        latency,
        slow,
        snapshot,
        compression,
        workers,
        source,
        fairness,
        soak,
        paths,
        store,
        cluster,
    )
}
