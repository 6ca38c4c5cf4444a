import subprocess
import sys

import pytest

import finetune


def test_every_public_name_can_be_imported_and_is_listed():
    assert sorted(finetune.__all__) == sorted(finetune._EXPORT_MODULE)
    for name in finetune.__all__:
        assert getattr(finetune, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'finetune' has no attribute 'fine'"):
        _ = finetune.fine


@pytest.mark.parametrize(
    "command", ["--help", "--version", "recipes list", "recipes show folder", "recipes validate folder"]
)
def test_light_commands_import_no_torch(command):
    code = (
        "import sys; from finetune.cli.main import main; sys.argv = ['finetune', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'timm', 'numpy', 'scipy', 'sklearn', 'av', 'cv2', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *command.split()], check=True, capture_output=True, timeout=60)
