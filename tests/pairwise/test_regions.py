"""Cells gathered into regions, and cut into tiles: whatever the plan saw, every pair meets in one task. No Spark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pandas as pd
import pyarrow as pa
import pytest

from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import Comparison
from spark_semdedup.pairwise import packing as planning
from spark_semdedup.pairwise import regions
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.packing import partition_of
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.schema import FIRST_PROBING_TILE, NO_TILE, cells_column
from spark_semdedup.pairwise.task import GroupComparison
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.vectors import decode_units, packed_rows


@dataclass(frozen=True)
class Rows:
    """The cell each row is at home in, whether it is a probing row in each, and a hash of its id."""

    own: np.ndarray
    probing: np.ndarray
    hashes: np.ndarray

    @property
    def visits(self) -> Visits:
        rows, cells = np.nonzero(self.probing)
        return Visits(rows.astype(np.int64), cells.astype(np.int32))

    @classmethod
    def random(cls, seed: int, n: int, k: int, visits: float = 2.0) -> Rows:
        """Crowded cells and empty ones, cells with probing rows alone, rows that visit none and that visit many."""
        rng = np.random.default_rng(seed)
        own = rng.choice(k, n, p=rng.dirichlet(np.full(k, 0.3)))
        probing = rng.random((n, k)) < rng.dirichlet(np.full(k, 0.5)) * visits * rng.choice([0, 1, 2], (n, 1))
        probing[np.arange(n), own] = False
        return cls(own, probing, rng.integers(0, 2**31, n))

    def sample(self, scale: float = 1.0) -> VisitSample:
        return VisitSample(self.own, self.visits, scale)

    def places(self, plan: RegionPlan):
        return plan.places(self.own, self.visits, self.hashes)


def centroids_of(k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((k, 3)).astype(np.float32)


def planned(sample: VisitSample, k: int, max_rows: int, partitions: int = 3, **options) -> RegionPlan:
    """A plan for ``partitions``; small data would get a single one."""
    options = {"centroids": centroids_of(k), "sketched": True, **options}
    with pytest.MonkeyPatch.context() as patch:
        for module in (planning, regions):
            patch.setattr(module, "default_partitions", lambda *_: partitions)
        return plan_regions(sample, max_rows=max_rows, slots=2, **options)


def meetings(plan: RegionPlan, rows: Rows) -> np.ndarray:
    """How often rows are compared as rows of each cell, (n, n, k): what tasks do with the rows they get, by hand.

    A task of ``NO_TILE`` compares home rows of each of its cells with one another and with the probing rows; one with a
    tile of probing rows, those with home rows of the cells they visit. One whose rows are all of the tile they are
    compared with, all of them; any other, those of the one tile with those of the other.
    """
    n, k = rows.probing.shape
    count = np.zeros((n, n, k), np.int8)
    places = rows.places(plan)
    for key in np.unique(places.task).tolist():
        here = places.task == key
        group, tile, other = places.rows[here], places.tile[here], places.other[here]
        assert len(set(group.tolist())) == len(group), "a row is sent to a task once"
        if tile[0] == NO_TILE:
            assert (tile == NO_TILE).all()
            for cell in np.flatnonzero(plan.cells_of(key)):
                home_rows, probing_rows = group[rows.own[group] == cell], group[rows.probing[group, cell]]
                count[np.ix_(home_rows, home_rows, [cell])] += 1
                count[np.ix_(home_rows, probing_rows, [cell])] += 1
                count[np.ix_(probing_rows, home_rows, [cell])] += 1
            continue
        cells = np.flatnonzero(plan.cells_of(key))
        assert len({frozenset(pair) for pair in zip(tile.tolist(), other.tolist(), strict=True)}) == 1
        is_probing = tile >= FIRST_PROBING_TILE
        assert np.isin(rows.own[group[~is_probing]], cells).all()
        assert not np.isin(rows.own[group[is_probing]], cells).any()
        assert rows.probing[np.ix_(group[is_probing], cells)].any(axis=1).all()
        assert not (is_probing & (other >= FIRST_PROBING_TILE)).any(), "probing rows meet home rows alone"
        if max(tile[0], other[0]) >= FIRST_PROBING_TILE:
            for cell in cells:
                home_rows, probing_rows = group[rows.own[group] == cell], group[is_probing & rows.probing[group, cell]]
                count[np.ix_(home_rows, probing_rows, [cell])] += 1
                count[np.ix_(probing_rows, home_rows, [cell])] += 1
            continue
        (cell,) = cells.tolist()
        if tile[0] == other[0]:
            count[np.ix_(group, group, [cell])] += 1
        else:
            one, two = group[tile == tile.max()], group[tile != tile.max()]
            count[np.ix_(one, two, [cell])] += 1
            count[np.ix_(two, one, [cell])] += 1
    count[np.arange(n), np.arange(n)] = 0
    return count


def wanted(rows: Rows) -> np.ndarray:
    """Once as two home rows of a cell, or as its home row and its probing row."""
    home = rows.own[:, None] == np.arange(rows.probing.shape[1])
    pairs = home[:, None] & home | home[:, None] & rows.probing | rows.probing[:, None] & home
    pairs[np.arange(len(home)), np.arange(len(home))] = False
    return pairs.astype(np.int8)


def check(plan: RegionPlan, rows: Rows) -> None:
    assert np.array_equal(meetings(plan, rows), wanted(rows))


# --- every pair meets once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [2, 7, 40, 1000])
@pytest.mark.parametrize("k", [1, 2, 15])
def test_every_pair_of_a_cell_meets_in_exactly_one_task(max_rows, k):
    for seed in range(6):
        rows = Rows.random(seed, 100, k)
        check(planned(rows.sample(), k, max_rows, partitions=1 + seed, sketched=bool(seed % 2)), rows)


@pytest.mark.parametrize("max_rows", [2, 30])
def test_also_where_the_sample_saw_other_rows_other_visits_and_other_cells(max_rows):
    """Plans say where any row goes: a sample may miss cells, and which of them are visited."""
    k = 12
    for seed in range(8):
        seen = Rows.random(seed, 15, k)
        few = VisitSample(seen.own, seen.visits if seed % 2 else Visits.none(), scale=10.0)
        check(planned(few, k, max_rows), Rows.random(seed + 100, 120, k, visits=4.0))


def test_also_where_the_sample_is_empty():
    nothing = VisitSample(np.zeros(0, np.int32), Visits.none(), 1.0)
    check(planned(nothing, 5, 10), Rows.random(0, 60, 5))


def test_also_where_every_row_visits_every_cell():
    rng = np.random.default_rng(0)
    rows = Rows(rng.integers(5, size=60), np.ones((60, 5), bool), rng.integers(0, 2**31, 60))
    rows.probing[np.arange(60), rows.own] = False
    for max_rows in (2, 20, 29, 30, 1000):
        check(planned(rows.sample(), 5, max_rows), rows)


def test_also_where_hashes_leave_tiles_empty():
    rows = Rows.random(3, 80, 4)
    same = Rows(rows.own, rows.probing, np.full(80, 2**31 - 1))
    plan = planned(rows.sample(), 4, 5)
    assert (plan.tiles > 1).any()
    assert (plan.probing_tiles > 1).any()
    check(plan, same)


@pytest.mark.parametrize("points", ["equal", "zero", "on a line", "huge"])
def test_centroids_that_no_direction_tells_apart(points):
    k = 9
    centroids = {
        "equal": np.ones((k, 3)),
        "zero": np.zeros((k, 3)),
        "on a line": np.arange(k)[:, None] * np.ones(3),
        "huge": 1e30 * centroids_of(k),
    }[points].astype(np.float32)
    rows = Rows.random(1, 100, k)
    check(planned(rows.sample(), k, max_rows=8, centroids=centroids), rows)


def test_rows_of_no_cell_and_no_rows():
    plan = planned(Rows.random(0, 50, 6).sample(), 6, 10)
    none = plan.places(np.zeros(0, np.int64), Visits.none(), np.zeros(0, np.int64))
    assert [len(column) for column in (none.rows, none.task, none.tile, none.other)] == [0] * 4
    assert [c.dtype for c in (none.rows, none.task, none.tile, none.other)] == [np.int64, np.int64, np.int32, np.int32]


# --- what tasks find ----------------------------------------------------------------------------------------


def crowded_rows(seed: int, n: int, k: int) -> Rows:
    """Cells that most rows visit among others."""
    rows, rng = Rows.random(seed, n, k), np.random.default_rng(seed)
    crowded = rng.choice(k, 4, replace=False)
    rows.probing[:, crowded] |= rng.random((n, 4)) < 0.9
    rows.probing[np.arange(n), rows.own] = False
    return rows


def entries_of(plan: RegionPlan, rows: Rows, units: np.ndarray, at_least: float) -> pd.DataFrame:
    """Of all tasks; ids are positions, and so rank. Rows come to a task in any order and in two batches."""
    rng = np.random.default_rng(0)
    compare = GroupComparison(
        Ranking(), (), "unit", decode_units, TaskDevice("cpu", 0.4), Comparison(at_least), True, plan
    )
    places, found = rows.places(plan), []
    cells = cells_column(len(units), rows.visits)
    for task in np.unique(places.task):
        here = rng.permutation(np.flatnonzero(places.task == task))
        group = places.rows[here]
        columns = {"id": group, "centroid": rows.own[group], "task": places.task[here]}
        columns |= {"tile": places.tile[here], "other": places.other[here]}
        packed, cut = packed_rows(units[group]), int(rng.integers(len(group) + 1))
        vectors = pa.chunked_array([packed[:cut], packed[cut:]])
        entries = compare._answer_for(pd.DataFrame(columns), vectors, cells.take(pa.array(group)))
        found.append(entries.assign(region=plan.region[plan.cells_of(int(task)).argmax()]))
    return pd.concat(found)


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
@pytest.mark.parametrize("max_rows", [8, 15, 40])
def test_tasks_together_find_what_brute_force_finds(at_least, max_rows):
    n, k, tiled = 110, 30, 0
    for seed in range(4):
        rng, rows = np.random.default_rng(seed), crowded_rows(seed, n, k)
        near = rng.standard_normal((n // 4, 8))[rng.integers(n // 4, size=n)]
        units = oracle.unit_vectors(near + rng.choice([0, 0.05, 0.3], (n, 1)) * rng.standard_normal((n, 8)))
        plan = planned(rows.sample(), k, max_rows)
        cells = np.bincount(plan.region)
        tiled += int(((plan.probing_tiles > 0) & (cells > 1)).sum())
        entries = entries_of(plan, rows, units, at_least)
        scores = oracle.clusters(units, np.zeros(n, int))[0].similarity
        home_rows = rows.own[:, None] == rows.own
        visits = rows.probing[:, rows.own]  # row i the cell of row j
        before = np.tri(n, k=-1, dtype=bool)
        counted = before & (home_rows | (visits | visits.T) & (scores.astype(np.float64) >= at_least))
        highest = np.where(counted, scores, -np.inf)
        there, neighbour = counted.any(axis=1), highest.argmax(axis=1)
        # The best entry of a row: one that names another row, of the largest score, of equal ones the first.
        entries["alone"] = entries["id"] == entries["max_id"]
        best = entries.sort_values(["alone", "cosine_sim_score", "max_id"], ascending=[True, False, True])
        best = best.groupby("id").first()
        assert best.index.tolist() == list(range(n)), "each row has an entry"
        assert best["max_id"].tolist() == np.where(there, neighbour, np.arange(n)).tolist()
        expected = np.where(there, highest.max(axis=1), 0).astype(np.float32)
        assert oracle.same_bits(best["cosine_sim_score"].to_numpy(), expected)
        pairs = (before & home_rows).sum(axis=1) + rows.probing.sum(axis=0)[rows.own]
        of_regions = np.bincount(plan.region[rows.own], pairs, k)  # a pair counts in its home row's region
        assert np.bincount(entries["region"], entries["compared"], k).tolist() == of_regions.tolist()
    assert tiled, "regions of several cells are tiled, too"


# --- what tasks hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [2, 7, 40, 1000])
def test_no_task_is_larger_than_two_tiles_where_the_sample_is_all_rows(max_rows):
    for seed in range(6):
        rows = Rows.random(seed, 200, 20)
        plan = planned(rows.sample(), 20, max_rows)
        assert plan.largest_task <= 2 * max_rows
        sent = dict(zip(*np.unique(rows.places(plan).task, return_counts=True), strict=True))
        for key, task in zip(plan.keys.tolist(), plan.tasks, strict=True):
            if task.tiles == (NO_TILE, NO_TILE):  # how many rows hash to a tile is a matter of chance
                assert sent.get(key, 0) == task.rows, "a region's rows are known"


def test_tiles_share_rows_evenly_where_hashes_do():
    n = 1200
    rows = Rows(np.zeros(n, np.int64), np.zeros((n, 2), bool), np.arange(n))
    rows.own[n // 2 :] = 1
    rows.probing[n // 2 :, 0] = True
    plan = planned(rows.sample(), 2, 100)
    assert plan.tiles.tolist() == [6, 6]
    assert plan.probing_tiles.tolist() == [6, 1]
    sent = dict(zip(*np.unique(rows.places(plan).task, return_counts=True), strict=True))
    assert [sent.get(key, 0) for key in plan.keys.tolist()] == [task.rows for task in plan.tasks]
    assert max(sent.values()) == plan.largest_task == 200


def test_a_cell_is_tiled_when_it_and_its_probing_rows_are_too_many():
    rows = Rows(np.repeat([0, 1, 2], [20, 10, 5]), np.zeros((35, 3), bool), np.arange(35))
    rows.probing[:10, 1] = rows.probing[:16, 2] = True
    plan = planned(rows.sample(), 3, 10)
    assert plan.tiles[plan.region].tolist() == [0, 0, 1]
    assert plan.probing_tiles[plan.region].tolist() == [0, 0, 2]
    assert plan.first_task.tolist() == [0, 1, 2]
    assert len(plan.keys) == 5


def test_crowded_cells_share_their_probing_rows():
    """Five cells that all rows visit, and 25 that only their own are in: the five are one region, of which each
    probing row is sent to one task, not one in each of the five."""
    n, k, crowded = 1100, 30, [1, 4, 5, 9, 14]
    own = np.concatenate([np.repeat(crowded, 20), np.repeat(np.setdiff1d(np.arange(k), crowded), 40)])
    probing = np.zeros((n, k), bool)
    probing[:, crowded] = True
    probing[np.arange(n), own] = False
    rows = Rows(own, probing, np.arange(n))
    plan = planned(rows.sample(), k, max_rows=250)
    (region,) = set(plan.region[crowded].tolist())
    assert np.flatnonzero(plan.region == region).tolist() == crowded
    assert (plan.tiles[region], plan.probing_tiles[region]) == (1, 4)
    assert [task.rows for task in plan.tasks[plan.first_task[region] :][:5]] == [100, 350, 350, 350, 350]
    assert plan.rows_sent == len(rows.places(plan).rows) == n + 1000 + 4 * 100
    check(plan, rows)


def test_a_region_that_probing_rows_share_is_cut_where_that_sends_fewer_rows():
    """Its home rows would go to each of four tiles of probing rows, who visit one cell each."""
    k, per_cell, probing_rows = 4, 25, 100
    own = np.concatenate([np.repeat(np.arange(k), per_cell), np.full(k * probing_rows, k)])
    probing = np.zeros((len(own), k + 1), bool)
    probing[np.arange(k * per_cell, len(own)), np.repeat(np.arange(k), probing_rows)] = True
    rows = Rows(own, probing, np.arange(len(own)))
    plan = planned(rows.sample(), k + 1, max_rows=100, partitions=1)
    assert len(set(plan.region[:k].tolist())) > 1
    check(plan, rows)


def test_scale_counts():
    rows = Rows.random(0, 100, 8)
    whole = planned(VisitSample(np.repeat(rows.own, 3), _repeated(rows, 3), 1.0), 8, 50)
    part = planned(rows.sample(scale=3.0), 8, 50)
    assert part.tiles.tolist() == whole.tiles.tolist()
    assert part.rows_sent == pytest.approx(whole.rows_sent)


def _repeated(rows: Rows, times: int) -> Visits:
    found = np.nonzero(np.repeat(rows.probing, times, axis=0))
    return Visits(found[0], found[1].astype(np.int32))


def test_a_region_is_of_neighbours_so_that_rows_are_sent_to_few():
    """Cells on a line, whose rows visit the two next to their own: not three times the rows are sent."""
    k, per_cell = 64, 20
    own = np.repeat(np.arange(k), per_cell)
    probing = np.abs(own[:, None] - np.arange(k)) == 1
    shuffled = np.random.default_rng(0).permutation(k)
    centroids = np.zeros((k, 3), np.float32)
    centroids[shuffled, 0] = np.arange(k)
    rows = Rows(shuffled[own], probing[:, np.argsort(shuffled)], np.arange(len(own)))
    plan = planned(rows.sample(), k, max_rows=200, partitions=1, centroids=centroids)
    assert plan.rows_sent == len(rows.places(plan).rows) < 1.3 * len(own)
    assert len(plan.tasks) == len(np.unique(plan.region)) >= len(own) / 400


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 2, 7, 50])
def test_keys_are_distinct_and_spread_the_work(partitions):
    rows = Rows.random(2, 400, 40)
    plan = planned(rows.sample(), 40, 20, partitions=partitions)
    assert plan.one_each == (len(plan.tasks) <= 4 * partitions)
    partitions = len(plan.tasks) if partitions < len(plan.tasks) <= 4 * partitions else partitions
    assert len(set(plan.keys.tolist())) == len(plan.keys) == len(plan.tasks)
    assert (plan.keys >= 0).all(), "negative ones are those of rows in no cell"
    assert plan.partitions == partitions
    costs = np.array([task.cost for task in plan.tasks])
    loads = np.bincount(partition_of(plan.keys, partitions), costs, minlength=partitions)
    assert loads.max() <= (4 / 3) * max(costs.sum() / partitions, costs.max()) * (1 + 1e-9)


def test_the_plan_and_the_places_are_the_same_again():
    rows = Rows.random(5, 300, 30)
    one, two = planned(rows.sample(), 30, 15), planned(rows.sample(), 30, 15)
    for name in ("region", "tiles", "probing_tiles", "first_task", "keys"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    order = np.random.default_rng(0).permutation(300)
    moved = Rows(rows.own[order], rows.probing[order], rows.hashes[order])

    def as_set(rows: Rows, number) -> set:
        found = rows.places(one)
        return set(
            zip(
                number[found.rows].tolist(), found.task.tolist(), found.tile.tolist(), found.other.tolist(), strict=True
            )
        )

    assert as_set(rows, np.arange(300)) == as_set(moved, order), "of its row's own cells and hash alone"
