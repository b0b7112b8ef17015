"""Small seeded simulators, one a task: what its metrics do in the seconds to come.

Each takes a load a second, in units of what it can bear for ever (about 1), and gives the values
of its metrics. Nobody acts on them: they tell what happens if nothing is done.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable

Values = dict[str, float]


class Simulator(ABC):
    """One system. `step` lives through a second."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Draw what is different from one system to the next."""

    @abstractmethod
    def step(self, load: float) -> Values:
        """Live through a second under a load; return the metrics by name."""

    def noisy(self, value: float, share: float = 0.02) -> float:
        """A value as a sensor gives it."""
        return value * (1.0 + self.rng.gauss(0.0, share))


class Queue(Simulator):
    """Requests of Poisson number that a server works off one after another."""

    def begin(self) -> None:
        """Draw speed, tokens of an answer and what is waiting."""
        draw = self.rng
        self._rate = math.exp(draw.uniform(math.log(0.6), math.log(3.0)))
        self._tokens, self._wait = draw.uniform(20, 120), draw.uniform(0.0, 12.0) * self._rate
        self._idle = draw.uniform(5, 30)

    def step(self, load: float) -> Values:
        """What arrives waits; what can be answered goes."""
        arrived = max(0.0, self.rng.gauss(load * self._rate, math.sqrt(load * self._rate)))
        self._wait = max(0.0, self._wait + arrived - self._rate)
        busy = min(1.0, 0.15 + load)
        return {
            "latency.first_token_s": self.noisy(0.3 + self._wait / self._rate),
            "queue.depth": float(round(self._wait)),
            "tokens.rate": self.noisy(busy * self._rate * self._tokens),
            "cpu.percent": min(100.0, self.noisy(self._idle + (100 - self._idle) * busy)),
        }


class GraphicsCard(Simulator):
    """A graphics card: memory follows the load soon, heat later."""

    def begin(self) -> None:
        """Draw weights, time constants and the room's temperature."""
        draw = self.rng
        self._weights, self._room = draw.uniform(30, 60), draw.uniform(28, 42)
        self._memory, self._heat = draw.uniform(75, 90), draw.uniform(65, 82)
        self._memory_s, self._heat_s = draw.uniform(8, 30), draw.uniform(25, 70)
        self._gain = draw.uniform(46, 58)

    def step(self, load: float) -> Values:
        """Both approach what the load asks for."""
        wanted = self._weights + (95.0 - self._weights) * load
        self._memory += (wanted - self._memory) / self._memory_s
        self._heat += (self._room + self._gain * load - self._heat) / self._heat_s
        return {
            "gpu.memory_percent": min(100.0, self.noisy(self._memory, 0.003)),
            "gpu.utilization_percent": min(100.0, max(0.0, self.noisy(92 * load, 0.06))),
            "gpu.temperature": self.noisy(self._heat, 0.006),
        }


class Descent(Simulator):
    """A training: beyond what its learning rate bears, the loss grows by a share of itself."""

    def begin(self) -> None:
        """Draw loss, gradient and how fast it goes astray."""
        draw = self.rng
        self._loss, self._norm = draw.uniform(1.5, 4.5), draw.uniform(1.0, 6.0)
        self._speed, self._astray = draw.uniform(0.025, 0.08), draw.uniform(0.0, 0.5)

    def step(self, load: float) -> Values:
        """The logarithm of the loss's ratio drifts with the load, and is pulled back a little."""
        drift = self._speed * (load - 0.95) - 0.002 * self._astray
        self._astray = max(-0.05, self._astray + drift + self.rng.gauss(0.0, 0.006))
        ratio = math.exp(min(self._astray, 8.0))
        return {
            "training.loss": self.noisy(self._loss * ratio),
            "training.loss_ratio": self.noisy(ratio, 0.015),
            "training.gradient_norm": self.noisy(self._norm * ratio**2.2, 0.1),
        }


class MachineMemory(Simulator):
    """A machine whose programs hold more or less memory; above 88 % they begin to wait for it."""

    def begin(self) -> None:
        """Draw what is in use, by whom, and how fast it follows."""
        draw = self.rng
        self._used, self._lag_s = draw.uniform(70, 86), draw.uniform(15, 60)
        self._kv, self._swap = draw.uniform(1e7, 2e9), draw.uniform(0, 40)
        self._errors = draw.choice([0.0, 0.0, draw.uniform(0, 3)])

    def step(self, load: float) -> Values:
        """In use approaches what is asked for; what does not fit goes to swap."""
        rate = (95.0 * load - self._used) / self._lag_s
        self._used = min(110.0, self._used + rate)
        self._kv = max(1e6, self._kv * (1 + 0.002 * rate))
        short = max(0.0, self._used - 88.0)
        self._swap = min(100.0, max(0.0, self._swap + 0.02 * short))
        score = 1.0 - 0.06 * short - 0.01 * self._errors
        return {
            "memory.percent": min(100.0, self.noisy(self._used, 0.002)),
            "pressure.memory": min(100.0, self.noisy(0.6 * short * short, 0.1)),
            "swap.percent": self._swap,
            "kv_cache.bytes": self._kv,
            "stability.score": max(0.0, min(1.0, self.noisy(score, 0.01))),
            "errors.rate": self._errors,
        }


class Volume(Simulator):
    """A disk that is written to, and cleaned up at a steady rate."""

    def begin(self) -> None:
        """Draw how full it is and how much is written."""
        draw = self.rng
        self._used, self._rate = draw.uniform(88, 93), draw.uniform(0.05, 0.25)
        self._bytes, self._wait = draw.uniform(3e7, 3e8), draw.uniform(2, 40)

    def step(self, load: float) -> Values:
        """What is written beyond what is cleaned up stays."""
        self._used = max(60.0, self._used + self._rate * (load - 0.85) * 1.5)
        return {
            "disk.percent": min(100.0, self.noisy(self._used, 0.0004)),
            "disk.write_rate": self.noisy(self._bytes * load, 0.2),
            "disk.wait_ms": self.noisy(self._wait * (1 + 4 * max(0.0, load - 0.8)), 0.15),
        }


class Link(Simulator):
    """A line with a deep buffer: what does not fit waits in it, then is dropped."""

    def begin(self) -> None:
        """Draw distance and depth."""
        draw = self.rng
        self._base, self._held = draw.uniform(10, 120), draw.uniform(0, 500)
        self._depth = draw.uniform(50, 140)

    def step(self, load: float) -> Values:
        """The buffer grows by what exceeds the capacity."""
        came = load + self.rng.gauss(0.0, 0.08)
        self._held = max(0.0, self._held + self._depth * (came - 0.97))
        trip = self._base + self._held
        return {
            "network.round_trip_ms": self.noisy(trip, 0.03),
            "network.loss_percent": min(100.0, max(0.0, self.noisy((trip / 400) ** 2 - 0.5, 0.2))),
            "network.used_percent": min(100.0, max(0.0, 97 * came)),
        }


class Processor(Simulator):
    """A processor with a fan that turns with its temperature."""

    def begin(self) -> None:
        """Draw room, power and mass."""
        draw = self.rng
        self._room, self._power = draw.uniform(22, 36), draw.uniform(60, 140)
        self._heat, self._lag_s = draw.uniform(72, 88), draw.uniform(15, 50)
        self._gain = draw.uniform(60, 68)

    def step(self, load: float) -> Values:
        """Heat approaches what power and fan leave."""
        fan = min(1.0, max(0.2, (self._heat - 45) / 45))
        wanted = self._room + self._gain * load * (1.15 - 0.15 * fan)
        self._heat += (wanted - self._heat) / self._lag_s
        return {
            "cpu.temperature": self.noisy(self._heat, 0.005),
            "cpu.fan_rpm": self.noisy(5000 * fan),
            "cpu.power_w": self.noisy(self._power * load, 0.05),
        }


class Pool(Simulator):
    """Workers that take a task each; when none is free, tasks wait."""

    def begin(self) -> None:
        """Draw the time of a task and the share that is free."""
        draw = self.rng
        self._free, self._task_s = draw.uniform(12, 40), draw.uniform(8, 40)
        self._waiting = 0.0

    def step(self, load: float) -> Values:
        """Busy workers approach the load."""
        busy = 100.0 - self._free
        busy = min(100.0, busy + (100.0 * load - busy) / self._task_s)
        self._free = max(0.0, 100.0 - busy)
        short = max(0.0, load - 0.9)
        self._waiting = max(0.0, self._waiting + 60 * short - 3)
        return {
            "workers.free_percent": max(0.0, min(100.0, self.noisy(self._free, 0.03))),
            "workers.waiting": float(round(self._waiting)),
            "workers.task_s": self.noisy(self._task_s / 6 * (1 + 2 * short), 0.1),
        }


class Database(Simulator):
    """Connections that slow queries hold longer, which slows the queries."""

    def begin(self) -> None:
        """Draw speed and what is taken."""
        draw = self.rng
        self._taken, self._query = draw.uniform(60, 82), draw.uniform(15, 120)
        self._lag_s = draw.uniform(12, 45)

    def step(self, load: float) -> Values:
        """The fuller, the slower; the slower, the fuller."""
        slow = 1.0 + max(0.0, self._taken - 70.0) / 25.0
        wanted = 78.0 * load * (0.8 + 0.2 * slow)
        self._taken = min(110.0, self._taken + (wanted - self._taken) / self._lag_s)
        return {
            "database.connections_percent": min(100.0, self.noisy(self._taken, 0.008)),
            "database.query_ms": self.noisy(self._query * slow * slow, 0.1),
            "database.lock_waits": float(round(max(0.0, 8 * (slow - 1) + self.rng.gauss(0, 1)))),
        }


class Battery(Simulator):
    """A battery that is drawn from, and charged a little by the sun."""

    def begin(self) -> None:
        """Draw charge and size."""
        draw = self.rng
        self._charge, self._watts = draw.uniform(14, 24), draw.uniform(300, 900)
        self._rate = draw.uniform(0.08, 0.3)

    def step(self, load: float) -> Values:
        """The charge falls by what is drawn beyond what comes in."""
        self._charge = min(100.0, max(0.0, self._charge - self._rate * (load - 0.8)))
        draws = max(0.0, self._watts * load)
        return {
            "battery.charge_percent": max(0.0, self.noisy(self._charge, 0.006)),
            "battery.draw_w": self.noisy(draws, 0.08),
            "battery.sag_v": self.noisy(draws / 500 * (1 + 6 / (self._charge + 2)), 0.05),
        }


class Talk(Simulator):
    """Conversations that begin to repeat themselves; complaints come with a delay."""

    def begin(self) -> None:
        """Draw how repetitive it is, and how patient people are."""
        draw = self.rng
        self._repeats, self._lag_s = draw.uniform(24, 42), draw.uniform(15, 60)
        self._complaints, self._sure = draw.uniform(0, 2), draw.uniform(0.5, 0.8)

    def step(self, load: float) -> Values:
        """Repetition approaches what the load asks for."""
        self._repeats += (55.0 * load - 8.0 - self._repeats) / self._lag_s
        self._complaints += (max(0.0, self._repeats - 25.0) / 5.0 - self._complaints) / 20.0
        sure = self._sure - 0.006 * (self._repeats - 30.0)
        return {
            "quality.repetition_percent": min(100.0, max(0.0, self.noisy(self._repeats))),
            "quality.complaints": max(0.0, self.noisy(self._complaints, 0.15)),
            "quality.confidence": min(1.0, max(0.0, self.noisy(sure, 0.02))),
        }


class Post(Simulator):
    """Mail that waits to be sent; beyond what receivers like, they refuse some of it."""

    def begin(self) -> None:
        """Draw how much is sent a second, and what waits."""
        draw = self.rng
        self._rate, self._waiting = draw.uniform(80, 260), draw.uniform(0, 4000)
        self._patience = draw.uniform(0.05, 0.3)

    def step(self, load: float) -> Values:
        """What is refused comes back; what waits is tried again only now and then."""
        came = max(0.0, load + self.rng.gauss(0.0, 0.05))
        refused = self._patience * max(0.0, came - 0.85)
        more = self._rate * (came + refused - 0.97)
        self._waiting = max(0.0, self._waiting + (more if more > 0 else 0.4 * more))
        return {
            "mail.waiting": float(round(self.noisy(self._waiting, 0.01))),
            "mail.delay_s": self.noisy(1.0 + 4.0 * self._waiting / self._rate, 0.05),
            "mail.refused_percent": min(100.0, max(0.0, self.noisy(100 * refused, 0.2))),
        }


class Player(Simulator):
    """A film that is shown while it is loaded: a second is used up each second."""

    def begin(self) -> None:
        """Draw what is loaded ahead, how much at most, and the size of the film."""
        draw = self.rng
        self._ahead, self._most = draw.uniform(8, 20), draw.uniform(9, 30)
        self._mbit, self._share = draw.uniform(3, 20), draw.uniform(0.5, 1.0)

    def step(self, load: float) -> Values:
        """The heavier the load on the line, the less of the film comes through."""
        speed = max(0.0, 0.95 / max(load, 0.3) + self.rng.gauss(0.0, 0.12))
        self._ahead = max(0.0, min(self._most, self._ahead + self._share * (speed - 1.0)))
        return {
            "stream.buffer_s": self.noisy(self._ahead, 0.01),
            "stream.download_mbit": self.noisy(self._mbit * speed, 0.05),
            "stream.retries": max(0.0, self.noisy(6 * max(0.0, load - 0.8), 0.3)),
        }


class Greenhouse(Simulator):
    """Air that plants moisten and vents dry; wet leaves give their water back later."""

    def begin(self) -> None:
        """Draw the climate and how slowly the air follows."""
        draw = self.rng
        self._humid, self._lag_s = draw.uniform(74, 88), draw.uniform(20, 75)
        self._warmth, self._wet = draw.uniform(16, 30), draw.uniform(0, 30)
        self._base = draw.uniform(6, 20)

    def step(self, load: float) -> Values:
        """Moisture approaches what evaporates; above 88 % it settles on the leaves."""
        wanted = self._base + 72.0 * load + 0.08 * self._wet
        self._humid = min(100.0, self._humid + (wanted - self._humid) / self._lag_s)
        self._wet = min(100.0, max(0.0, self._wet + 0.15 * (self._humid - 88.0)))
        return {
            "greenhouse.humidity_percent": min(100.0, self.noisy(self._humid, 0.0025)),
            "greenhouse.temperature": self.noisy(self._warmth - 0.1 * (self._humid - 80.0)),
            "greenhouse.leaf_wet_percent": self._wet,
        }


class Boiler(Simulator):
    """Steam that a flame makes and a valve lets out, by the square root of the pressure."""

    def begin(self) -> None:
        """Draw pressure, water, and how much steam there is room for."""
        draw = self.rng
        self._bar, self._water = draw.uniform(11, 14.5), draw.uniform(40, 70)
        self._speed, self._flame = draw.uniform(0.2, 0.8), draw.uniform(45, 75)

    def step(self, load: float) -> Values:
        """What is made beyond what leaves raises the pressure and lowers the water."""
        made = load + self.rng.gauss(0.0, 0.04)
        self._bar = max(0.0, self._bar + self._speed * (made - 0.92 * math.sqrt(self._bar / 13.0)))
        self._water = min(80.0, max(10.0, self._water - 0.4 * (made - 0.9)))
        return {
            "boiler.pressure_bar": self.noisy(self._bar, 0.005),
            "boiler.flame_percent": max(0.0, self.noisy(self._flame * load, 0.05)),
            "boiler.water_percent": self.noisy(self._water, 0.01),
        }


SIMULATORS: dict[str, Callable[[random.Random], Simulator]] = {
    "memory": MachineMemory,
    "latency": Queue,
    "gpu": GraphicsCard,
    "training": Descent,
    "disk": Volume,
    "network": Link,
    "cooling": Processor,
    "workers": Pool,
    "database": Database,
    "battery": Battery,
    "quality": Talk,
    "mail": Post,
    "stream": Player,
    "greenhouse": Greenhouse,
    "boiler": Boiler,
}
