"""The demo from nothing to tokens, as a sequence of steps that a person can follow."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from cluster import api
from cluster.api import Cluster
from cluster.progress import Progress
from cluster.spec import ClusterSpec
from demo import kind_images
from demo.asking import Answer, ask
from demo.errors import DemoError
from demo.installation import EXAMPLES, Installation, build_image_table, install, make_worker_environment, uninstall
from demo.milestones import wait_until_ready
from demo.proof import describe_pair, difference, fetch_counters, show_proof
from tandem_api import labels

DEMO_CLUSTER = "demo"
NAMESPACE = "tandem"
FLEET, MODEL = "quickstart", "tiny-llama"
SINGLE, SINGLE_MODEL = "single", "tiny-llama-single"
READY_TIMEOUT_S = 900.0
PROMPT = "The operator watches the cluster, the router watches the clock, and the workers hand the cache over. " * 8
PROMPTS = (PROMPT, PROMPT[:60], PROMPT * 3, "One two three", "KV cache " * 40)
ANSWER_TOKENS = 48


class Demo:
    """One run. Each step raises DemoError with one sentence and its fix."""

    def __init__(self, provider: str, name: str, console: Console) -> None:
        self._provider, self._name, self._console = provider, name, console

    def run(self) -> None:
        """All steps, in order."""
        started = time.monotonic()
        self._say("A cluster")
        cluster = api.up(self._choose_cluster(), Progress(self._console))
        self._say("Tandem, from its chart")
        self._tandem = self._install(cluster)
        self._serve()
        with self._tandem.open_router() as url:
            self._prove(url)
            self._break(url)
        self._console.print(f"\nDone in {time.monotonic() - started:.0f} s.")
        self._tell_next(cluster)

    def _choose_cluster(self) -> ClusterSpec:
        if self._provider != "source":
            return ClusterSpec(name=self._name, provider=self._provider)
        with ThreadPoolExecutor(1) as aside:  # vLLM waits for the network, Kubernetes for the processor
            worker = aside.submit(make_worker_environment)
            api.build(Progress(self._console))
            images = dict(build_image_table(worker.result()))
        return ClusterSpec(name=self._name, process_nodes=1, images=images)

    def _install(self, cluster: Cluster) -> Installation:
        more = kind_images.HELM_FLAGS if self._provider == "kind" else ()
        if self._provider == "kind":
            kind_images.load_images(cluster, Progress(self._console))
        with Progress(self._console).step("Installing the custom resources, the operator and the router"):
            return install(cluster, NAMESPACE, EXAMPLES / "values-laptop.yaml", *more)

    def _serve(self) -> None:
        self._say("A fleet of one prefill and one decode worker, and a single instance to compare with")
        fleets = [self._tandem.objects.apply(EXAMPLES / f"{name}.yaml") for name in (FLEET, SINGLE)]
        wait_until_ready(self._tandem.objects, fleets, self._console, READY_TIMEOUT_S)

    def _prove(self, url: str) -> None:
        self._say("An answer, streamed through the router")
        before = fetch_counters(self._tandem.objects, self._tandem.access, FLEET, "decode")
        answer = ask(url, MODEL, PROMPT, ANSWER_TOKENS, self._show_piece)
        self._console.print()
        same = [self._is_equal(url, prompt) for prompt in PROMPTS]
        moved = difference(fetch_counters(self._tandem.objects, self._tandem.access, FLEET, "decode"), before)
        show_proof(self._console, answer, moved, all(same), len(same))
        if not all(same) or moved.bytes_received == 0:
            raise DemoError("the KV that moved did not give the single instance's answer", "please report this")

    def _is_equal(self, url: str, prompt: str) -> bool:
        fleet, single = (ask(url, model, prompt, ANSWER_TOKENS) for model in (MODEL, SINGLE_MODEL))
        return fleet.text == single.text

    def _break(self, url: str) -> None:
        self._say("Decode scaled to 2, then the prefill worker killed")
        self._tandem.objects.patch_spec(FLEET, {"decode": {"replicas": 2}})
        wait_until_ready(self._tandem.objects, [FLEET], self._console, READY_TIMEOUT_S)
        before = ask(url, MODEL, "before " + PROMPT, ANSWER_TOKENS)
        victim = self._tandem.objects.fetch_pods(f"{labels.FLEET}={FLEET},{labels.ROLE}=prefill")[0].metadata.name
        self._tandem.objects.kill_pod(victim)
        self._console.print(f"  killed {victim}", soft_wrap=True)
        during = ask(url, MODEL, "during " + PROMPT, ANSWER_TOKENS)
        self._report("before the kill", before)
        self._report("right after it", during)
        wait_until_ready(self._tandem.objects, [FLEET], self._console, READY_TIMEOUT_S)
        self._report("after its return", ask(url, MODEL, "after " + PROMPT, ANSWER_TOKENS))

    def _report(self, when: str, answer: Answer) -> None:
        self._console.print(
            f"  {when}: {answer.usage.get('completion_tokens')} tokens, TTFT {answer.ttft_s * 1000:.0f} ms, "
            f"{describe_pair(answer.served_by)}",
            markup=False,
            soft_wrap=True,
        )

    def _show_piece(self, text: str) -> None:
        self._console.print(text, end="", style="cyan", markup=False, soft_wrap=True)

    def _say(self, title: str) -> None:
        self._console.print(f"\n▸ {title}", style="bold", markup=False, soft_wrap=True)

    def _tell_next(self, cluster: Cluster) -> None:
        kubectl = f"{cluster.bin_dir}/kubectl --kubeconfig {cluster.kubeconfig} -n {NAMESPACE}"
        self._console.print(
            f"\nThree things to try next:\n"
            f"  1. See what the operator says:   {kubectl} describe infd {FLEET}\n"
            f"  2. Read a worker's log:          {kubectl} logs -l {labels.FLEET}={FLEET},{labels.ROLE}=decode\n"
            f"  3. Shrink the decode pool:       {kubectl} patch infd {FLEET} --type merge "
            """-p '{"spec":{"decode":{"replicas":1}}}'\n"""
            f"\n`make demo-down` removes everything.",
            markup=False,
            soft_wrap=True,
        )


def remove(provider: str, name: str, console: Console) -> None:
    """Undo `Demo.run`: the whole cluster where the demo made it, else what it put into yours."""
    if provider != "existing":
        api.down(name, Progress(console))
        return
    uninstall(api.up(ClusterSpec(name=name, provider=provider), Progress(console)), NAMESPACE)
