#!/bin/sh
# Install the server into /opt/vqdiff, for a user of its own: docker/install.sh WHEEL. Needs root and python3 with venv.
set -eu
python3 -m venv /opt/vqdiff
/opt/vqdiff/bin/pip install --no-cache-dir --disable-pip-version-check --constraint "$(dirname "$0")/../constraints.txt" "$1[serve]"
useradd --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin --uid 10001 vqdiff
