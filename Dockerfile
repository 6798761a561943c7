# The server on CPUs: docker build --tag vqdiff . && docker run --publish 127.0.0.1:8000:8000 vqdiff
# The container needs no capabilities and, with /tmp as a tmpfs, no writable root: see compose.yml.
FROM python:3.12-slim AS wheel
COPY . /source
RUN pip wheel --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
# PyTorch's index of CPU builds; its default builds bring several gigabytes of CUDA libraries.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY docker/install.sh /source/docker/
COPY constraints.txt /source/
COPY --from=wheel /wheels /wheels
RUN /source/docker/install.sh /wheels/*.whl && rm -r /wheels /source
ENV HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s CMD ["/opt/vqdiff/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["/opt/vqdiff/bin/vqdiff"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
