from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from condkit.annotators.nets.aux_networks import hed_network, network_class
from condkit.errors import DependencyError


def test_importing_it_disturbs_nothing():
    """In a fresh process: the import happens only once in each."""
    code = """
        import copy, sys, threading
        import timm
        from timm.models import _registry
        before = copy.deepcopy({k: v for k, v in vars(_registry).items() if k.startswith("_model")})
        from condkit.annotators.nets.aux_networks import hed_network
        threads = [threading.Thread(target=hed_network) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        after = {k: v for k, v in vars(_registry).items() if k.startswith("_model")}
        assert before == after, "timm's registry has changed"
        assert "mediapipe" not in sys.modules
        import mediapipe
        assert mediapipe.tasks
        assert type(hed_network()).__module__ == "controlnet_aux.hed"
        assert sys.modules["mediapipe"] is mediapipe
    """
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "controlnet_aux" in line]
    assert ours == []
    assert done.stdout == ""


def test_a_fresh_network_has_the_published_tensors():
    state = hed_network().state_dict()
    assert len(state) == 37
    assert tuple(state["norm"].shape) == (1, 3, 1, 1)


@pytest.mark.parametrize("where", [("hed", "NoSuchClass"), ("no_such_module", "Net")])
def test_what_is_not_there_is_named_with_the_cure(where):
    with pytest.raises(DependencyError, match=f"no {where[0]}.{where[1]} .*controlnet-aux==0"):
        network_class(*where)
