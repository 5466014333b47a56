# vLLM on CPU, for kind and for clusters without GPUs, from the repository's root:
#   docker build -f images/engine-cpu.Dockerfile -t tandem.dev/engine-cpu:0.1.0 .
# On GPUs use the stock vLLM image: Tandem mounts its code into it.
FROM python:3.11-slim
COPY requirements/bootstrap.txt requirements/worker-cpu.txt /tmp/
RUN pip install --no-cache-dir --require-hashes -r /tmp/bootstrap.txt \
    && uv pip install --system --no-cache --no-deps --require-hashes --compile-bytecode -r /tmp/worker-cpu.txt
USER 65532:65532
