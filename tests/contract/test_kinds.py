"""What the kinds of buffers do not promise is little, and every reason names a test that there is."""

from pathlib import Path

from tests.contract.conftest import CANNOT, KINDS

MAX_TESTS = 4
"""How many tests a kind may skip because it does not promise what they test."""


def test_a_kind_skips_few_tests_and_only_such_as_there_are() -> None:
    code = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert CANNOT.keys() <= {kind.name for kind in KINDS}
    for reasons in CANNOT.values():
        assert len(reasons) <= MAX_TESTS
        assert all(f"def {name}(" in code for name in reasons)
