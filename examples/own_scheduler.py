"""A user's scheduler, with the classic lost wake-up, and corrected.

hfsched fuzz examples/own_scheduler.py::sleepy     finds the lost wake-up
pytest examples/own_scheduler.py                   proves the corrected scheduler
"""

import hfsched.explore


def scheduler(runtime, *, careful):
    """Two producers append jobs to a list; a worker takes them, and sleeps while the list is empty."""
    jobs, done = [], []
    lock, wake = runtime.lock("jobs", state=lambda: tuple(jobs)), runtime.event("wake")

    def work():
        while len(done) < 2:
            runtime.retain_only(tuple(done))
            if careful:
                wake.clear()  # before the list is checked
            with lock:
                job = jobs.pop() if jobs else None
            if job is not None:
                done.append(job)
                continue
            if not careful:
                wake.clear()  # a job appended since the check is never seen
            wake.wait()

    def produce(job):
        with lock:
            jobs.append(job)
        wake.set()

    for name, task in (("worker", work), ("one", lambda: produce(1)), ("two", lambda: produce(2))):
        runtime.spawn(name, task)

    def check():
        assert sorted(done) == [1, 2], f"asleep with {jobs} to do"

    return hfsched.explore.World(check)


@hfsched.explore.test()
def sleepy(runtime):
    return scheduler(runtime, careful=False)


@hfsched.explore.test(strategy="exhaustive")
def test_careful(runtime):
    return scheduler(runtime, careful=True)
