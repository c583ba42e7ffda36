"""Which slot lives on which host, by which rules; ports that are held."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from realnet.errors import RealnetError
from realnet.launch.ports import ENVIRONMENT, HeldPort, port_range
from realnet.topology.placement import Host, Placement, assigned_pools, spares_of_pools, spread
from realnet.topology.plan import Plan, PoolPlan, RolePlan, SlotPlan


def plan_of(*roles: RolePlan, pools: dict[str, PoolPlan] | None = None) -> Plan:
    slots = []
    for role in roles:
        for index in range(role.count):
            name = f"{role.name}/{index}"
            gang = name if role.ranks > 1 else ""
            slots.append(SlotPlan(name, index, (role.name,), (), 0, gang))
            slots += [
                SlotPlan(f"{name}.{r}", index, (role.name,), (), r, gang)
                for r in range(1, role.ranks)
            ]
    return Plan(
        *("p", "p", "p.toml", "."),
        roles={r.name: r for r in roles},
        wires=(),
        slots=tuple(slots),
        stop_order=(),
        shared={},
        run={"transport": "ipc", "security": "none", "host": "127.0.0.1"},
        pools=pools or {},
    )


def role(name: str, count: int = 1, **more: object) -> RolePlan:
    return RolePlan(name=name, kind=name, count=count, config={}, **more)  # type: ignore[arg-type]


def placed(plan: Plan, *hosts: Host) -> Placement:
    placement = Placement(plan)
    for host in hosts:
        placement.add(host)
    assert placement.place_all() == []
    return placement


def test_members_of_a_role_are_spread_and_who_is_near_another_is_with_it() -> None:
    plan = plan_of(role("server", near="trainer"), role("worker", 3), role("trainer"))
    places = placed(plan, *(Host(f"n{i}", 16) for i in range(3))).places
    assert {places[f"worker/{i}"].host for i in range(3)} == {"n0", "n1", "n2"}
    assert places["server/0"].host == places["trainer/0"].host


def test_gangs_stay_together_and_gpus_are_given_out_by_position() -> None:
    plan = plan_of(role("generator", 3, gpus=2), role("trainer", ranks=4, gpus=1))
    placement = placed(plan, Host("a", 16, 8), Host("b", 16, 2))
    gang = [placement.places[s] for s in ("trainer/0", *(f"trainer/0.{i}" for i in (1, 2, 3)))]
    assert [(p.host, p.gpus) for p in gang] == [("a", (i,)) for i in range(4)]
    given = sorted(
        (p.host, gpu) for p in placement.places.values() for gpu in p.gpus
    )  # each to one process only
    assert given == [*(("a", i) for i in range(8)), ("b", 0), ("b", 1)]


def test_a_gang_larger_than_any_host_keeps_neighbours_together() -> None:
    plan = plan_of(role("trainer", ranks=4, gpus=2))
    places = placed(plan, Host("a", 16, 4), Host("b", 16, 4)).places
    assert [places[s].host for s in ("trainer/0", "trainer/0.1")] == ["a", "a"]
    assert [places[s].host for s in ("trainer/0.2", "trainer/0.3")] == ["b", "b"]


def test_what_does_not_fit_is_named_with_what_there_is() -> None:
    plan = plan_of(role("trainer", ranks=4, gpus=4), role("helper"))
    placement = Placement(plan)
    placement.add(Host("a", 16, 8))
    assert placement.place_all() == ["trainer/0"]
    text = placement.complaint(["trainer/0"])
    assert text == (
        "there is no room for trainer/0 (4 x (1 cores, 4 GPUs)). The hosts: a: 16 cores, 8 GPUs"
    )
    assert placement.places["helper/0"] == ("a", ())


def test_spares_stand_idle_until_a_host_is_lost() -> None:
    plan = plan_of(role("worker", 4, gpus=1))
    hosts = assigned_pools([Host(n, 8, 2) for n in "abc"], {}, num_spares=1)
    placement = placed(plan, *hosts)
    assert {p.host for p in placement.places.values()} == {"a", "b"}
    gone = placement.remove("b")
    assert len(gone) == 2
    assert all(placement.place(slot) for slot in gone)
    assert [placement.places[s].host for s in gone] == ["c", "c"]
    assert not placement.place("worker/0") or placement.places["worker/0"].host in "ac"


def test_pools_have_hosts_of_their_own() -> None:
    pools = {"train": PoolPlan("train", nodes=1), "rest": PoolPlan("rest")}
    plan = plan_of(role("trainer", pool="train"), role("worker", 2, pool="rest"), pools=pools)
    hosts = assigned_pools([Host(n, 8) for n in "abc"], pools)
    assert [h.pool for h in hosts] == ["train", "rest", "rest"]
    places = placed(plan, *hosts).places
    assert places["trainer/0"].host == "a"
    assert {places["worker/0"].host, places["worker/1"].host} == {"b", "c"}


def test_elastic_members_live_on_hosts_that_came_for_them_only() -> None:
    plan = spread(plan_of(role("worker", 1, max=3), role("sink")), "10.0.0.1")
    assert [s.name for s in plan.slots if s.elastic] == ["worker/1", "worker/2"]
    assert plan.run["transport"] == "tcp"
    assert plan.run["security"] == "curve"
    placement = placed(plan, Host("a", 8))
    assert not placement.place("worker/1")
    placement.add(Host("e", 8, elastic="worker"))
    assert placement.place("worker/1")
    assert placement.places["worker/1"].host == "e"
    placement.free("sink/0")
    placement.remove("a")
    assert not placement.place("sink/0")


def test_a_held_port_is_nobody_elses_but_a_server_may_listen_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low, high = port_range()
    first = HeldPort()
    assert low <= first.number < high
    monkeypatch.setenv(ENVIRONMENT, f"{first.number}-{first.number}")
    with pytest.raises(RealnetError, match="no free port"):
        HeldPort()  # another run's agent
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", first.number))
        server.listen()
    first.close()
    again = HeldPort()
    assert again.number == first.number
    again.close()
    monkeypatch.setenv(ENVIRONMENT, "everything")
    with pytest.raises(RealnetError, match="20000-29999"):
        HeldPort()


def test_ports_are_below_those_of_the_system() -> None:
    floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port_range()[1] <= floor


def test_a_spare_of_a_pool_steps_in_for_that_pool_only() -> None:
    plan = plan_of(
        role("a", pool="x", cpus=2),
        role("b", pool="y", cpus=2),
        pools={"x": PoolPlan("x", nodes=1), "y": PoolPlan("y", nodes=1)},
    )
    hosts = [Host(n, 4, pool=p) for n, p in (("1", "x"), ("2", "x"), ("3", "y"))]
    placement = Placement(plan)
    for host in spares_of_pools(hosts, {"x": 1, "y": 1}):
        placement.add(host)
    assert [h.spare for h in placement.hosts] == [False, True, False]
    assert placement.place_all() == []
    assert {s: p.host for s, p in placement.places.items()} == {"a/0": "1", "b/0": "3"}
    assert placement.remove("3") == ["b/0"]
    assert not placement.place("b/0")  # the spare is of another kind
    assert placement.remove("1") == ["a/0"]
    assert placement.place("a/0")
    assert placement.places["a/0"].host == "2"
