"""What Dask does when a certificate ends while it is connected, and that one which was renewed is taken in time."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.certificates.machines import certified

from hooke.certificates.authority import Authority
from hooke.certificates.key_files import Keys

pytest.importorskip("distributed")
from distributed import Client, Scheduler, Security, Worker, wait
from distributed.comm import connect

SHORT_S = 12.0
LAB = Authority.make("lab", now=time.time(), valid_s=3600.0)


def security(keys: Keys) -> Security:
    of_roles = {f"tls_{role}_cert": str(keys.machine) for role in ("client", "scheduler", "worker")}
    return Security(require_encryption=True, tls_ca_file=str(keys.ca), **of_roles)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_connections_outlive_a_certificate_and_new_ones_need_a_good_one(tmp_path: Path) -> None:
    async def conduct() -> None:
        named = {name: certified(LAB, tmp_path / name, name) for name in ("head", "driver")}
        ended = time.time() + SHORT_S
        for name in ("old", "renewed"):
            named[name] = certified(LAB, tmp_path / name, name, valid_s=SHORT_S)
        how = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        at = {"host": "127.0.0.1", "nthreads": 1, **how}
        async with (
            Scheduler(
                protocol="tls", host="127.0.0.1", port=0, security=security(named["head"]), **how
            ) as scheduler,
            Worker(scheduler.address, name="old", security=security(named["old"]), **at) as old,
            Worker(
                scheduler.address,
                name="renewed",
                security=security(named["renewed"]),
                preload="hooke.engines.dask.certificate",
                **at,
            ) as renewed,
            Client(scheduler.address, security=security(named["driver"]), asynchronous=True) as client,
        ):
            fresh = certified(LAB, tmp_path / "fresh", "renewed")
            named["renewed"].replace(machine=fresh.machine.read_bytes(), facts=fresh.facts())
            await asyncio.sleep(ended + 1.5 - time.time())
            for name in ("old", "renewed"):
                await wait(client.submit(sum, [1, 2], workers=name, pure=False))
            how = security(named["driver"]).get_connection_args("client")
            with pytest.raises(OSError, match="certificate"):
                await connect(old.address, timeout=5, **how)
            with pytest.raises(OSError, match="certificate"):
                await connect(renewed.address, timeout=5, **old.connection_args)
            for address, arguments in ((renewed.address, how), (scheduler.address, renewed.connection_args)):
                comm = await connect(address, timeout=5, **arguments)
                await comm.close()

    asyncio.run(conduct())
