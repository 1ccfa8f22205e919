#!/usr/bin/env bash
# Restarts the consumers one after the other, zone by zone, each once the one before is ready: what one of them holds is
# answered by the other zone meanwhile. Run it after a change was applied. Stops at the first that does not come back.
set -euo pipefail
namespace=${NAMESPACE:-sluice}
timeout=${TIMEOUT:-30m}

pods=$(kubectl -n "$namespace" get pods -l app.kubernetes.io/component=consumer --sort-by=.metadata.name -o name)
for pod in $pods; do # nothing is touched unless all are well
    kubectl -n "$namespace" wait --for=condition=Ready --timeout=0s "$pod" >/dev/null
done
for pod in $pods; do
    before=$(kubectl -n "$namespace" get "$pod" -o 'jsonpath={.metadata.uid}')
    echo "restarting $pod"
    kubectl -n "$namespace" delete "$pod"
    until now=$(kubectl -n "$namespace" get "$pod" --ignore-not-found -o 'jsonpath={.metadata.uid}') &&
        [ -n "$now" ] && [ "$now" != "$before" ]; do
        sleep 1
    done
    kubectl -n "$namespace" wait --for=condition=Ready --timeout="$timeout" "$pod"
done
