"""The state of an audit: whole units, their pictures apart, and a secret that outlives a kill."""

import pytest
import torch

from surgery.auditing.store import FORMAT, Store
from surgery.auditing.units import Cost, DrawnSeeds, OrdinaryUnit, ReplicationUnit
from surgery.errors import SurgeryError, UsageError

UNIT = ReplicationUnit(
    before=DrawnSeeds((0.1, 1 / 3), 0.9),
    after=DrawnSeeds((0.0, -0.25), 0.2),
    equal_seeds=(0.5, 0.75),
    stand_in=False,
    cost=Cost(24, 1.5),
)
OTHER = OrdinaryUnit(
    change=0.1, timesteps=(9, 4), by_timestep=(0.1, 0.2), equal_seeds=(1.0,), other_seed=None
)


def test_units_come_back_equal_and_their_pictures_only_when_asked_for(tmp_path):
    store = Store(tmp_path, {"settings": {"seeds": 2}})
    shown = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    key, other = ReplicationUnit.key(0), OrdinaryUnit.key(0)
    store.save(key, UNIT, {"before": shown})
    store.save(other, OTHER, {})
    again = Store(tmp_path, {"settings": {"seeds": 2}})
    assert again.load(ReplicationUnit, key) == UNIT and again.load(OrdinaryUnit, other) == OTHER
    assert torch.equal(again.pictures(key)["before"], shown) and again.pictures(other) == {}
    assert again.salt == store.salt and len(store.salt) == 32
    with pytest.raises(UsageError, match="seeds 2 there, 3 here"):
        Store(tmp_path, {"settings": {"seeds": 3}})


def test_a_damaged_unit_counts_as_not_finished(tmp_path):
    store = Store(tmp_path, {})
    key = ReplicationUnit.key(3)
    assert store.load(ReplicationUnit, key) is None
    store.save(key, UNIT, {})
    file = store.folder / f"{key}.json"
    file.write_text(file.read_text()[:-20])
    assert store.load(ReplicationUnit, key) is None
    with pytest.raises(SurgeryError, match="lost replication-3"):
        store.pictures(key)


def test_the_state_of_an_older_version_is_refused(tmp_path):
    store = Store(tmp_path, {})
    header = store.folder / "header.json"
    header.write_text(header.read_text().replace(FORMAT, "surgery.audit-state/1"))
    with pytest.raises(UsageError, match="format"):
        Store(tmp_path, {})
