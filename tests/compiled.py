"""Count what is compiled."""

from contextlib import contextmanager

import jax


@contextmanager
def compilations():
    """Yield a list that grows with every program compiled."""
    found = []

    def listener(name, seconds, **_):
        if 'backend_compile' in name:
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
