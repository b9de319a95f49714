"""Jobs run in processes of their own: results, progress and every way to fail come back."""

from __future__ import annotations

import os

import pytest

from tide.quickstart.jobs import JobFailed, run_job


def add(a, b=1):
    print("adding")
    return a + b, os.getpid()


def count(limit, *, report):
    for number in range(1, limit + 1):
        report(number)
    return "done"


def bad_input():
    raise ValueError("the rule, the values, the remedy")


def broken():
    raise KeyError("lost")


def killed():
    os.kill(os.getpid(), 9)


def test_a_job_returns_its_result_from_another_process(tmp_path):
    (total, pid) = run_job(add, 2, b=3, log=tmp_path / "logs" / "job.log")
    assert total == 5 and pid != os.getpid()
    assert (tmp_path / "logs" / "job.log").read_text() == "adding\n"


def test_progress_arrives_in_order(tmp_path):
    seen: list[int] = []
    assert run_job(count, 4, log=tmp_path / "job.log", on_progress=seen.append) == "done"
    assert seen == [1, 2, 3, 4]


def test_bad_input_stays_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"^the rule, the values, the remedy$"):
        run_job(bad_input, log=tmp_path / "job.log")


def test_a_failed_job_names_its_error_and_its_log(tmp_path):
    with pytest.raises(JobFailed, match=r"KeyError: 'lost'.*\n.*job\.log"):
        run_job(broken, log=tmp_path / "job.log")
    assert "Traceback" in (tmp_path / "job.log").read_text()


def test_a_killed_job_is_told_from_a_failed_one(tmp_path):
    with pytest.raises(JobFailed, match="exit status -9"):
        run_job(killed, log=tmp_path / "job.log")
