"""What the cluster's tests stand on: servers that come back, and a gate that shuts."""

import contextlib
import socket

import pytest
from cluster.nats_kit import ApiFault, Gate, NatsCluster, NatsServer

STREAM = {"subjects": ["K.log"], "storage": "file"}


def publish(server: NatsServer, text: bytes) -> None:
    server.request("K.log", text)


def test_a_killed_server_comes_back_with_its_streams_on_its_port(own_server: NatsServer) -> None:
    own_server.api("STREAM.CREATE.K", {"name": "K", **STREAM})
    publish(own_server, b"one")
    port = own_server.port
    own_server.kill()
    assert not own_server.is_running
    own_server.restart()
    assert own_server.port == port
    assert own_server.api("STREAM.INFO.K")["state"]["messages"] == 1


def test_a_frozen_server_answers_when_it_is_thawed(own_server: NatsServer) -> None:
    own_server.freeze()
    with pytest.raises(ApiFault):
        own_server.api("INFO", seconds=0.2)
    own_server.thaw()
    assert own_server.api("INFO")["type"].endswith("account_info_response")


def test_what_is_cut_stays_connected_and_what_is_severed_is_not(
    nats_server: NatsServer, gate: Gate
) -> None:
    with socket.create_connection(("127.0.0.1", gate.port), 10) as client:
        assert client.recv(100_000).startswith(b"INFO")
        gate.cut()
        client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        gate.restore()
        client.settimeout(10)
        assert client.recv(4) in (b"PONG", b"PING")
        gate.sever()
        assert _is_over(client)
    with socket.create_connection(("127.0.0.1", gate.port), 10) as client:
        assert _is_over(client)
    gate.restore()
    with socket.create_connection(("127.0.0.1", gate.port), 10) as client:
        assert client.recv(100_000).startswith(b"INFO")


def _is_over(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        while client.recv(100):
            pass
    return True


def test_three_servers_choose_another_leader_when_it_is_killed(nats_cluster: NatsCluster) -> None:
    nats_cluster.servers[0].api("STREAM.CREATE.K", {"name": "K", **STREAM, "num_replicas": 3})
    leader = nats_cluster.leader_of("K")
    leader.kill()
    following = nats_cluster.leader_of("K")
    assert following is not leader
    assert following.is_running
    leader.restart()
