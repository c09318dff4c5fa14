"""A trace of exactly the steps asked for."""

import jax
import jax.numpy as jnp
import pytest

from alpaca_jax.metrics import Profile, ProfileConfig


def traces(folder):
    return sorted(folder.rglob("*.xplane.pb"))


@pytest.fixture
def calls(monkeypatch):
    """Which steps are traced, without the profiler; `step` is set by the test's loop."""
    seen = {"step": 0, "started": [], "stopped": []}
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen["started"].append(seen["step"]))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen["stopped"].append(seen["step"]))
    return seen


def loop(profile, calls, first, last):
    for step in range(first, last + 1):
        calls["step"] = step
        profile.before(step)
        profile.after(step)
    profile.close()


def test_a_trace_file_appears(tmp_path):
    profile = Profile(ProfileConfig(start=2, steps=1), tmp_path / "profile")
    for step in (1, 2, 3):
        profile.before(step)
        profile.after(step, jnp.ones(8) * step)
        assert len(traces(tmp_path / "profile")) == (step >= 2)
    profile.close()
    assert len(traces(tmp_path / "profile")) == 1


def test_steps_k_to_k_plus_n_are_traced_once(tmp_path, calls):
    loop(Profile(ProfileConfig(start=3, steps=3), tmp_path), calls, 1, 9)
    assert (calls["started"], calls["stopped"]) == ([3], [5])


def test_a_run_that_goes_on_in_the_middle_traces_the_rest(tmp_path, calls):
    loop(Profile(ProfileConfig(start=3, steps=3), tmp_path), calls, 5, 9)
    assert (calls["started"], calls["stopped"]) == ([5], [5])


def test_a_run_that_ends_early_closes_the_trace(tmp_path, calls):
    loop(Profile(ProfileConfig(start=3, steps=3), tmp_path), calls, 1, 4)
    assert (calls["started"], calls["stopped"]) == ([3], [4])


def test_without_a_config_nothing_happens(tmp_path, calls):
    loop(Profile(None, tmp_path / "profile"), calls, 1, 4)
    assert (calls["started"], calls["stopped"]) == ([], [])
    assert not (tmp_path / "profile").exists()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="start=0: give 1 or more"):
        ProfileConfig(start=0)
