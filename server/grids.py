"""The in-process Grid: Flower's apps and messages without a server process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, wait

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_SERVER = 1
App = Callable[[Message, Context], Message]
Listener = Callable[[Message, Message], None]


class InProcessGrid(Grid):  # type: ignore[misc]
    """Deliver each message to a ClientApp in this process.

    Messages are encoded and decoded on the way, so that two sites never share an object, and an
    exception in a site becomes an error without its text.

    Parameters
    ----------
    app : callable
        The sites' app, a ClientApp or one elsewhere: from a message and a context to a reply.
    sites : mapping of int to str
        Folder of each site by node id.
    listener : callable, optional
        Hears every request and its reply, as they travelled: what the server sees.
    executor : Executor, optional
        Where sites answer side by side; without one they answer in turn, at once.
    """

    def __init__(
        self,
        app: App,
        sites: Mapping[int, str],
        listener: Listener | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._app = app
        self._listener = listener
        self._executor = executor
        self._run = Run.create_empty(1)
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"site": folder},
                state=RecordDict(),
                run_config={},
            )
            for node, folder in sites.items()
        }
        self._replies: dict[str, Future[Message]] = {}
        self._sent = 0
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SERVER

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages; their replies are kept."""
        ids = []
        for message in messages:
            self._sent += 1
            message_id = f"message-{self._sent}"
            message.metadata.__dict__["_message_id"] = message_id
            if self._executor is not None:
                self._replies[message_id] = self._executor.submit(self._answer, message)
            else:
                done: Future[Message] = Future()
                done.set_result(self._answer(message))
                self._replies[message_id] = done
            ids.append(message_id)
        return ids

    def _answer(self, message: Message) -> Message:
        reply = self._deliver(_copy(message))
        if self._listener is not None:
            self._listener(message, reply)
        return reply

    def _deliver(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            reply = self._app(message, context)
        except Exception:
            return Message(Error(code=0, reason="the site failed"), reply_to=message)
        return _copy(reply)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return and forget the replies that are there."""
        there = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in there]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and return the replies that came in time."""
        ids = list(self.push_messages(messages))
        wait([self._replies[i] for i in ids], timeout)
        return self.pull_messages(ids)


def _copy(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))
