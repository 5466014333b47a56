"""From `--policy` to a policy."""

from collections.abc import Callable

from tandem_simulator.conditions import Policy, Sizes
from tandem_simulator.errors import PolicyError
from tandem_simulator.meters import ArrivalMeter
from tandem_simulator.policies.dynamo import DynamoPolicy
from tandem_simulator.policies.fixed import StaticPolicy
from tandem_simulator.policies.fixed_ratio import FixedRatioPolicy
from tandem_simulator.policies.hpa import Bounds, build_hpa, build_queue_hpa
from tandem_simulator.policies.tandem import TandemPolicy
from tandem_simulator.policies.velocity import VelocityPolicy
from tandem_simulator.scenario import Scenario
from tandem_simulator.simulation import Simulation
from tandem_simulator.workload import Workload

KNOWN = "tandem, static:P,D, hpa:T, queue-hpa:T, dynamo, velocity, fixed-ratio, oracle"
Builder = Callable[[Simulation], Policy]


def parse_policy(name: str, scenario: Scenario, workload: Workload) -> Builder:
    """A builder for every policy but `oracle`, which is a search over runs (see `oracle`).

    Raises:
        PolicyError: unknown name, or parameters that cannot be.
        KeyError: `oracle`.
    """
    kind, numbers = check_policy(name)
    settings = scenario.settings()
    bounds: tuple[Bounds, Bounds] = (
        (settings.prefill.awake, settings.prefill.maximum),
        (settings.decode.awake, settings.decode.maximum),
    )
    start = scenario.conditions(workload).initial
    startup_s = scenario.startup.mean_s
    builders: dict[str, Builder] = {
        "tandem": lambda run: TandemPolicy(settings, workload, run.journal, startup_s),
        "static": lambda _: StaticPolicy(Sizes(int(numbers[0]), int(numbers[1]))),
        "hpa": lambda _: build_hpa(numbers[0], *bounds),
        "queue-hpa": lambda _: build_queue_hpa(numbers[0], *bounds),
        "dynamo": lambda _: DynamoPolicy(settings, ArrivalMeter(workload), *numbers),
        "velocity": lambda _: VelocityPolicy(settings, ArrivalMeter(workload), *numbers),
        "fixed-ratio": lambda _: FixedRatioPolicy(settings, ArrivalMeter(workload), start, *numbers),
    }
    return builders[kind]


COUNTS: dict[str, tuple[int, ...]] = {
    "tandem": (0,),
    "static": (2,),
    "hpa": (1,),
    "queue-hpa": (1,),
    "dynamo": (0, 2),
    "velocity": (0, 1),
    "fixed-ratio": (0, 1),
    "oracle": (0,),
}


def check_policy(name: str) -> tuple[str, list[float]]:
    """Kind and parameters of a policy's name.

    Raises:
        PolicyError: unknown name, or parameters that cannot be.
    """
    kind, _, rest = name.partition(":")
    if kind not in COUNTS:
        raise PolicyError(f"--policy {name}: unknown; use one of {KNOWN}")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        raise PolicyError(f"--policy {name}: {rest!r} is no number; use one of {KNOWN}") from None
    if len(numbers) not in COUNTS[kind]:
        raise PolicyError(f"--policy {name}: wrong number of parameters; use one of {KNOWN}")
    if kind == "static" and any(number != int(number) or number < 1 for number in numbers):
        raise PolicyError(f"--policy {name}: workers are whole numbers of one or more, as in static:4,2")
    if any(not 0 < number < float("inf") for number in numbers):
        raise PolicyError(f"--policy {name}: targets must be above zero")
    return kind, numbers
