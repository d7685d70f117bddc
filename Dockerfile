# syntax=docker/dockerfile:1

# Build the wheel of this checkout, and install it with its dependencies into one directory: neither
# pip's cache nor the sources come along. Whatever comes from outside is known by its hash.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements/build.lock requirements/server.lock requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.lock \
    && python -m venv /opt/kalam-notify \
    && /opt/kalam-notify/bin/pip install --no-cache-dir --require-hashes -r requirements/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY kalam_notify ./kalam_notify
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/kalam-notify/bin/pip install --no-cache-dir --no-deps --no-index /tmp/wheel/*.whl

FROM python:3.12-slim
LABEL org.opencontainers.image.title="kalam-notify" \
      org.opencontainers.image.description="Exact live queries over WebSocket, from posted row changes" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed id, so that the owner of a mounted volume can be set from outside.
RUN groupadd --gid 2900 kalam \
    && useradd --no-log-init --uid 2900 --gid kalam --home-dir /var/lib/kalam-notify --no-create-home \
        --shell /usr/sbin/nologin kalam \
    && install -d -o kalam -g kalam -m 0750 /var/lib/kalam-notify \
    && install -d -m 0755 /etc/kalam-notify \
    && printf '# Mount your own file here, or set KALAM_NOTIFY_... variables.\n' \
        > /etc/kalam-notify/config.yaml

COPY --from=build /opt/kalam-notify /opt/kalam-notify

# Nothing but the volume is written to, so the rest may be read-only (`docker run --read-only`).
# A container listens on all of its addresses and keeps its data on the volume, whatever a mounted
# configuration file, written for a host, says.
ENV PATH=/opt/kalam-notify/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KALAM_NOTIFY_SERVER__LISTEN=0.0.0.0:2900 \
    KALAM_NOTIFY_SERVER__DATA_DIR=/var/lib/kalam-notify \
    LIVEZ_URL=http://127.0.0.1:2900/livez

# By number, for Kubernetes' runAsNonRoot cannot tell who a name is.
USER 2900:2900
WORKDIR /var/lib/kalam-notify
VOLUME /var/lib/kalam-notify
EXPOSE 2900
# The server drains for server.drain_seconds (10) and then stops: give it time, `docker stop -t 20`.
STOPSIGNAL SIGTERM

# With server.tls or another port set LIVEZ_URL accordingly. The server's certificate is hardly
# for 127.0.0.1, so it is not verified: what is asked is only whether somebody answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request; urllib.request.urlopen(os.environ['LIVEZ_URL'], timeout=2, context=ssl._create_unverified_context())"]

ENTRYPOINT ["kalam-notify"]
CMD ["serve", "--config", "/etc/kalam-notify/config.yaml"]
