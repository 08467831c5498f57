"""The two ends of every comparison: Catraca, and the simulator asked directly."""
import os

import pytest

VARIES = {
    "id", "created", "created_at", "completed_at", "generationId", "response_id", "responseId", "item_id", "call_id",
    "previous_response_id", "startTime", "endTime", "providerResponseId", "obfuscation", "tool_call_id", "headers",
}


def settle(value):
    """Drops what two calls of the same thing may differ in: ids and clocks."""
    if isinstance(value, dict):
        return {k: settle(v) for k, v in value.items() if k not in VARIES}
    if isinstance(value, (list, tuple)):
        return [settle(v) for v in value]
    return value


class Ends:
    through = {"base_url": os.environ["E2E_CATRACA_URL"], "api_key": os.environ["E2E_CATRACA_KEY"]}
    straight = {"base_url": os.environ["E2E_DIRECT_URL"], "api_key": os.environ["E2E_DIRECT_KEY"]}

    def same(self, make, call):
        """Runs a call at both ends and compares what came back, or what was raised."""

        def run(end):
            try:
                return {"value": settle(call(make(end)))}
            except AssertionError:
                raise
            except Exception as err:  # the kinds of errors are what is compared
                return {"raised": type(err).__name__, "status": getattr(err, "status_code", None), "code": getattr(err, "code", None)}

        want, got = run(self.straight), run(self.through)
        assert got == want
        return got


@pytest.fixture
def ends():
    return Ends()
