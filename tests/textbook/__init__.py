"""Federated active learning written the slow and obvious way, to learn it and to check.

A whole campaign, from the first random labels to the last accuracy, in plain PyTorch
and plain Python: lists, loops, one sample after the other, gradient embeddings that are
really vectors of C·D numbers. Start with `run` in `campaign`, or read it in order:

- `world`: what a run is told, images and labels, the network
- `training`: SGD, the losses of KAFAL and CHASe; FedAvg, FedProx, SCAFFOLD
- `models`: the models that a query looks at
- `strategies`: FairFAL, KSAS, IFAL, CHASe, ALFA-Mix, diverse mini-batches
- `campaign`: label, train, evaluate, cycle by cycle

Nothing of the app is used but its images and its random streams, so that a fault in
the app cannot hide here as well: `tests/test_textbook.py` demands the same selections
and the same weights of both. What is shared is a contract. Every random stream has a
purpose and the numbers of cycle, round and client in its seed; everything goes by
clients and samples in ascending order; of equal scores the earlier sample wins.

Sources: FairFAL (Zong and Huang, arXiv 2603.10341), FedAvg (McMahan et al., arXiv
1602.05629), FedProx (Li et al., arXiv 1812.06127), SCAFFOLD (Karimireddy et al., arXiv
1910.06378), KAFAL (Cao et al., arXiv 2211.13579), IFAL (Zong et al., IJCAI 2025), CHASe
(Zhang et al., arXiv 2504.17448), ALFA-Mix (Parvaneh et al., arXiv 2203.07034), diverse
mini-batches (Zhdanov, arXiv 1901.05954). Where a published code and its paper differ,
the names "faithful" and "corrected" are those of docs/strategies.md.
"""

from textbook.campaign import Report, Round, run

__all__ = ["Report", "Round", "run"]
