#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade: a running service continues with the new program.
    if [ -n "$2" ]; then systemctl try-restart workflow-server.service; fi
fi
