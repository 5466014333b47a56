"""A router's internal listener, asked by a person. The only module here that touches the HTTP client."""

import base64
import binascii
from pathlib import Path

import httpx
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from tandem_cli.errors import CommandError
from tandem_core.keys import ROUTER_KEY_FILE, ROUTER_SECRET, decode_key, derive_internal_token

_TIMEOUT_S = 10.0


def read_token(path: Path) -> str:
    """The bearer token in a file.

    Raises:
        CommandError: the file cannot be read, or is empty.
    """
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--token-file {path}: {error}") from error
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise CommandError(f"--token-file {path}: holds no token; it is one line of text")
    return token


def fetch_token(kubeconfig: str | None, namespace: str | None) -> str:
    """The operator's own token, from the Secret that the routers mount, with the rights of the user.

    Raises:
        CommandError: no cluster, no right to read it, or no installation there.
    """
    try:
        config.load_kube_config(config_file=kubeconfig)
        _, context = config.list_kube_config_contexts(config_file=kubeconfig)
        place = namespace or context["context"].get("namespace") or "default"
        secret = client.CoreV1Api().read_namespaced_secret(ROUTER_SECRET, place, _request_timeout=_TIMEOUT_S)
        return derive_internal_token(decode_key(base64.b64decode(secret.data[ROUTER_KEY_FILE]).decode()))
    except (ConfigException, OSError) as error:
        raise CommandError(f"no cluster: {error}; give --kubeconfig, or --token-file") from error
    except ApiException as error:
        fix = "give --token-file, or -n with the namespace of the installation"
        raise CommandError(f"Secret {place}/{ROUTER_SECRET}: {error.status} {error.reason}; {fix}") from error
    except urllib3.exceptions.HTTPError as error:
        raise CommandError(f"the cluster does not answer: {error}; check --kubeconfig and the network") from error
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CommandError(f"Secret {place}/{ROUTER_SECRET} holds no {ROUTER_KEY_FILE} that can be read") from error


def fetch_from_router(url: str, path: str, token: str) -> bytes:
    """The body of a 200.

    Raises:
        CommandError: anything else.
    """
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as session:
            answer = session.get(f"{url.rstrip('/')}{path}", headers={"Authorization": f"Bearer {token}"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"{url} does not answer: {error}; give --router the URL of an internal listener") from error
    if answer.status_code == 401:
        raise CommandError(f"{url} does not accept the token: is it of this installation?")
    if answer.status_code == 404:
        raise CommandError(f"{url} knows no regions: set region.name of the chart, or ask the internal port, 8443")
    if answer.status_code != 200:
        raise CommandError(f"{url} answers {answer.status_code}: {answer.text[:200]}")
    return answer.content
