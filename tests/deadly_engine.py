"""A fake engine that some samples end or hang. A replica's environment steers it, beside `tests.fake_engine`:

FAKE_POISON   a text: the process ends that computes a prompt with it; FAKE_JOURNAL gets a line `death`
FAKE_HANG     a text: a prompt with it never comes to an end
FAKE_HUNGRY   gigabytes that loading takes
"""

import os
import signal
import time

from tests.fake_engine import FakeEngine, FakeModel


class DeadlyModel(FakeModel):
    def work(self, prompts):
        for prompt in prompts:
            if (poison := os.environ.get("FAKE_POISON")) and poison in prompt.text:
                with open(os.environ["FAKE_JOURNAL"], "a") as file:
                    file.write("death\n")
                os.kill(os.getpid(), signal.SIGKILL)
            while (hangs := os.environ.get("FAKE_HANG")) and hangs in prompt.text:
                time.sleep(1)
        return super().work(prompts)


class DeadlyEngine(FakeEngine):
    def open(self, model, settings):
        super().open(model, settings)
        opened = DeadlyModel()
        if gigabytes := float(os.environ.get("FAKE_HUNGRY", "0")):
            opened.held = [b"x" * 2**24 for _ in range(int(gigabytes * 64))]
            time.sleep(5)
        return opened


ENGINE = DeadlyEngine()
