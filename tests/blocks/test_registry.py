"""Blocks by name."""

import pytest
from torch import nn

from attnblocks import SE, CaCo, create_block, list_blocks, register_block


def test_names_give_the_classes():
    assert {name: type(create_block(name, 8)).__name__ for name in list_blocks()} == {
        name: name for name in ("CBAM", "CaCo", "CoordAtt", "Eca", "SE", "SeCo")
    }
    assert create_block("CaCo", 64, rd_channels=3).rd_channels == 3


@pytest.mark.parametrize(("wrong", "near"), [("caco", "CaCo"), ("CoordAttn", "CoordAtt")])
def test_unknown_names_list_the_known_and_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"{wrong}.*CBAM, CaCo, .*Did you mean '{near}'"):
        create_block(wrong, 64)
    with pytest.raises(ValueError, match=r"no block is named 'xyz'; known: [A-Za-z, ]+\.$"):
        create_block("xyz", 64)


def test_an_option_that_a_block_lacks_is_an_error():
    with pytest.raises(TypeError, match="rd_channels"):
        create_block("Eca", 64, rd_channels=4)


def test_users_register_their_own():
    class Mine(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.inner = CaCo(channels, 2)

    register_block("Mine", Mine)
    assert create_block("Mine", 32).inner.rd_channels == 2
    assert "Mine" in list_blocks()


@pytest.mark.parametrize(
    ("name", "block", "error"),
    [("SE", SE, ValueError), ("", SE, ValueError), (3, SE, TypeError), ("New", 3, TypeError)],
)
def test_registering_nonsense_is_refused(name, block, error):
    with pytest.raises(error):
        register_block(name, block)
