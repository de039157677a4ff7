"""The ServerApp: `server.app:app`."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.job import Job
from server.observer import Observer
from server.rounds import execute


def make_app(observer: Observer | None = None) -> ServerApp:
    """Return the ServerApp.

    Parameters
    ----------
    observer : Observer, optional
        Who watches the rounds; a deployment has none.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        execute(grid, Job.from_json(str(context.run_config["job"])), observer)

    return app


app = make_app()
