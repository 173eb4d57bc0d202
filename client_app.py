"""Flower ClientApp: each message goes to the client's `Participant`."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fairfal_flwr import messages
from fairfal_flwr.client.node import serve
from fairfal_flwr.client.participant import Participant

app = ClientApp()


@app.query("status")
def status(message: Message, context: Context) -> Message:
    """Say who this client is and how much it holds."""
    return serve(message, context, messages.StatusRequest, Participant.status)


@app.query("imbalance")
def imbalance(message: Message, context: Context) -> Message:
    """Measure the imbalance of the global model."""
    return serve(message, context, messages.ImbalanceRequest, Participant.imbalance)


@app.query("select")
def select(message: Message, context: Context) -> Message:
    """Choose samples and have them labeled."""
    return serve(message, context, messages.SelectRequest, Participant.select)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the labels."""
    return serve(message, context, messages.TrainRequest, Participant.train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model on the client's test shard."""
    return serve(message, context, messages.EvaluateRequest, Participant.evaluate)
