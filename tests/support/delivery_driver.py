"""A backend of its own process for the kill tests; a script.

    python delivery_driver.py DATA_DIR LABEL_STUDIO_URL [BODY]

Goes on with what an earlier process has left. With a file of a /predict body it asks for that batch first and says
so on standard output. Then it works until it is killed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ml_backend.models.executor import Executor
from ml_backend.settings import Settings
from ml_backend.web.assemble import build_service
from tests.support import proposal_targets
from tests.support.backend import VERSION, NamedMedia, recorded


def main(data_dir: Path, url: str, body: Path | None) -> None:
    """Serve without a web server."""
    settings = Settings(
        data_dir=data_dir,
        expression_key="expr",
        label_studio_url=url,
        label_studio_api_key="abc",  # type: ignore[arg-type]
        predict_timeout=0.2,
        alternatives=1,
        repredict=False,
    )
    service = build_service(
        settings,
        executor=Executor.local([proposal_targets.proposing], max_attempts=settings.max_attempts),
        loader=NamedMedia(),
        base_version=VERSION,
        model="test-model",
    )
    service.start()
    if body is not None:
        request = json.loads(body.read_text())
        setup = {**recorded("setup"), "project": request["project"], "schema": request["label_config"]}
        service.setup({**setup, "hostname": url})
        service.predict(request)
    print("up", service.health().workers[0].state, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
