"""Libraries of extras: a missing one is named with its pip command, and none of them reports usage."""

import json
import os
import subprocess
import sys

import pytest

from finetune.errors import RunError
from finetune.runtime.extras import import_extra

CONVERT = """
import json, os, sys, time
asked = []
sys.addaudithook(lambda event, args: asked.append(event) if event.startswith("socket.") else None)
{imports}
import numpy as np
openvino.convert_model
from openvino import opset13 as ops
parameter = ops.parameter([1], np.float32)
openvino.Core().compile_model(openvino.Model([ops.relu(parameter)], [parameter]), "CPU")
time.sleep(0.5)  # reports are sent by a thread
print(json.dumps([asked, os.listdir(os.environ["HOME"])]))
"""


def sockets_and_files(imports, home):
    """The audit events about sockets, and the files in the home folder afterwards, where consent would be noted."""
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-c", CONVERT.format(imports=imports)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_openvino_and_nncf_report_no_usage(tmp_path):
    imports = (
        "from finetune.runtime.extras import import_extra\n"
        "openvino = import_extra('openvino', extra='openvino')\nimport_extra('nncf', extra='openvino')"
    )
    assert sockets_and_files(imports, tmp_path) == [[], []]


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RunError, match=r'onnxscript cannot be imported .*pip install "finetune-video\[onnx\]"'):
        import_extra("onnx", "onnxscript", extra="onnx")
