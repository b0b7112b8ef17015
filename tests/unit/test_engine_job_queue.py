import pytest

from sovl_daemon.engine.thread.job_queue import JobQueue
from sovl_daemon.engine.thread.priority import Priority


def queue(**jobs: Priority) -> JobQueue[str]:
    made: JobQueue[str] = JobQueue()
    for job, priority in jobs.items():
        made.put(job, priority)
    return made


def taken(jobs: JobQueue[str], count: int) -> list[str | None]:
    return [jobs.take() for _ in range(count)]


def test_jobs_of_one_priority_take_turns() -> None:
    jobs = queue(a=Priority.TRAINING, b=Priority.TRAINING, c=Priority.TRAINING)
    assert taken(jobs, 4) == ["a", "b", "c", "a"]
    jobs.remove("b")
    assert taken(jobs, 4) == ["c", "a", "c", "a"]


@pytest.mark.parametrize("order", [list(Priority), list(reversed(Priority))])
def test_the_highest_priority_runs_alone(order: list[Priority]) -> None:
    jobs = queue(**{priority.name: priority for priority in order})
    for priority in (
        Priority.JUDGE,
        Priority.CONVERSATION,
        Priority.CURIOSITY,
        Priority.TRAINING,
    ):
        assert taken(jobs, 2) == [priority.name, priority.name]
        jobs.remove(priority.name)
    assert jobs.take() is None


def test_a_cancelled_job_comes_first_whatever_its_priority() -> None:
    jobs = queue(judge=Priority.JUDGE, night=Priority.TRAINING)
    assert jobs.cancel("night")
    assert jobs.take() == "night"
    jobs.remove("night")
    assert jobs.take() == "judge"
    assert not jobs.cancel("night")


def test_drain_empties_every_place() -> None:
    jobs = queue(a=Priority.JUDGE, b=Priority.JUDGE, c=Priority.TRAINING)
    jobs.take()
    jobs.cancel("c")
    assert sorted(jobs.drain()) == ["a", "b", "c"]
    assert jobs.take() is None
