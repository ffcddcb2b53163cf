"""Real nodes on a network that is cut, while clients write and read; their history is judged.

Network namespaces need root (or its rights): where they are not permitted, these tests are skipped
with the reason. The short form cuts twice; the long one, `make faults`, twenty times at random.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import pytest

from feeds.replication.base import ReplicaStatus
from feeds.testing_cluster import NODES, ProcessCluster
from feeds.testing_network import Network, NetworkUnavailable


def others(*nodes: str) -> tuple[str, ...]:
    return tuple(node for node in NODES if node not in nodes)


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network.between(NODES))
        except NetworkUnavailable as error:
            pytest.skip(str(error))
        yield network


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[ProcessCluster]:
    with ExitStack() as stack:
        stack.callback(network.heal)
        cluster = ProcessCluster(tmp_path, wrap=network.wrap, addresses=network.addresses)
        stack.callback(cluster.end)
        cluster.begin()
        yield cluster


def status(cluster: ProcessCluster, node: str) -> ReplicaStatus:
    found = cluster.status(node)
    assert found is not None
    return found


def role(cluster: ProcessCluster, node: str) -> str:
    return status(cluster, node).role


def standing(cluster: ProcessCluster) -> tuple[str, int]:
    """Who leads, in which term."""
    leader = cluster.leader()
    return leader, status(cluster, leader).term


def silent_s(cluster: ProcessCluster, node: str) -> float:
    """Seconds since a node heard the one that it hears all the time: its leader, or a follower."""
    return max(peer.silent_s or 0.0 for peer in status(cluster, node).peers)


def knows_lost(cluster: ProcessCluster, node: str, other: str) -> bool:
    return not next(one.connected for one in status(cluster, node).peers if one.node == other)


def cut_leader(cluster: ProcessCluster, network: Network) -> None:
    """Its clients are told so, the others elect, and it follows once it is back."""
    leader = cluster.leader()
    cluster.work(20)
    network.cut(leader)
    assert cluster.leader(others(leader)) != leader
    cluster.wait_for(lambda: role(cluster, leader) != "leader", f"{leader} to step down")
    answered = cluster.history.answered[leader]
    cluster.work(100, others(leader))
    refused = cluster.history.refused
    cluster.wait_for(
        lambda: refused[leader, "NoLeader"] + refused[leader, "OutcomeUnknown"] > 0,
        f"the clients of {leader} to be told",
    )
    assert cluster.history.answered[leader] == answered
    network.heal()
    cluster.work(20, [leader])
    cluster.wait_for(cluster.agrees, "all to follow one")


def cut_follower(cluster: ProcessCluster, network: Network) -> None:
    """Nobody is deposed while it is away, nor when it comes back."""
    before = standing(cluster)
    follower = others(before[0])[0]
    cluster.work(20)
    network.cut(follower)
    # Its election timer ends more than once; it asks, and does not stand.
    cluster.wait_for(lambda: silent_s(cluster, follower) > 2, "it to hear nobody for a while")
    cluster.work(100, others(follower))
    assert role(cluster, follower) != "leader"
    network.heal()
    cluster.work(20, [follower])
    assert before == standing(cluster)


def cut_all(cluster: ProcessCluster, network: Network) -> None:
    """Nobody leads and nothing is acknowledged, until the network is whole."""
    cluster.work(20)
    for node in NODES:
        network.cut(node)
    cluster.wait_for(
        lambda: all(role(cluster, node) != "leader" for node in NODES), "nobody to lead"
    )
    acknowledged = cluster.history.acknowledged
    cluster.wait_for(lambda: min(silent_s(cluster, node) for node in NODES) > 2, "all to be alone")
    assert acknowledged == cluster.history.acknowledged
    network.heal()
    cluster.work(20)


def mute_leader(cluster: ProcessCluster, network: Network) -> None:
    """It hears everyone and nobody hears it: the others elect."""
    leader = cluster.leader()
    network.mute(leader)
    cluster.leader(others(leader))
    cluster.work(50, others(leader))
    cluster.wait_for(lambda: role(cluster, leader) != "leader", f"{leader} to step down")
    network.heal()
    cluster.work(20, [leader])


def deafen_leader(cluster: ProcessCluster, network: Network) -> None:
    """Everyone hears it and it hears nobody: it must not keep the others from electing."""
    leader = cluster.leader()
    network.deafen(leader)
    cluster.leader(others(leader))
    cluster.work(50, others(leader))
    cluster.wait_for(lambda: role(cluster, leader) != "leader", f"{leader} to step down")
    network.heal()
    cluster.work(20, [leader])


def part_leader_from_one(cluster: ProcessCluster, network: Network) -> None:
    """Two nodes do not reach each other, the third reaches both: nobody is deposed."""
    before = standing(cluster)
    leader, (one, other) = before[0], others(before[0])
    network.part(leader, one)
    cluster.wait_for(lambda: peer_silence_s(cluster, one, leader) > 2, "it to miss the leader")
    cluster.work(50, [leader, other])
    assert before == standing(cluster)
    network.heal()
    cluster.work(20, [one])
    assert before == standing(cluster)


def peer_silence_s(cluster: ProcessCluster, node: str, other: str) -> float:
    return next(peer.silent_s for peer in status(cluster, node).peers if peer.node == other)


CUTS = (cut_leader, cut_follower, cut_all, mute_leader, deafen_leader, part_leader_from_one)


def test_leader_and_then_a_follower_are_cut_off_and_nothing_is_lost(
    cluster: ProcessCluster, network: Network
) -> None:
    cut_leader(cluster, network)
    cut_follower(cluster, network)
    cluster.judge()


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
def test_nothing_is_lost_by_a_cut(
    cluster: ProcessCluster, network: Network, cut: Callable[[ProcessCluster, Network], None]
) -> None:
    cut(cluster, network)
    cluster.judge()


@pytest.mark.slow
def test_peer_behind_a_cut_cable_is_given_up_and_dialed_anew(
    cluster: ProcessCluster, network: Network
) -> None:
    """Without that TCP tries for a quarter of an hour, with pauses that grow to two minutes."""
    leader = cluster.leader()
    follower = others(leader)[0]
    network.cut(follower)
    for node, other in ((leader, follower), (follower, leader)):
        cluster.wait_for(partial(knows_lost, cluster, node, other), f"{node} to miss {other}")
    network.heal()
    cluster.work(20, [follower])
    cluster.judge()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_by_twenty_cuts(cluster: ProcessCluster, network: Network) -> None:
    random = Random(20)
    for cut in [*CUTS, *random.choices(CUTS, k=20 - len(CUTS))]:
        cut(cluster, network)
    cluster.judge()
