"""The back end `fsdp`: one policy's model cut over the ranks of a gang, trained as one.

    leader (rank 0)   learner.py   decides: batches, credit, minibatches, which rank runs what
                      crew.py      sends an order to every rank and makes the same move itself
    every rank        follower.py  makes the moves it is ordered to make, one after the other
                      shard.py     model, optimizer and scorer, cut by FSDP2
                      meeting.py   how the ranks find each other: one store, no fixed port
                      sharded.py   fully_shard, and the weights dealt from rank 0
                      deal.py      micro-batches over ranks
                      files.py     checkpoints in shards, by torch.distributed.checkpoint

Imported lazily: a trainer without ranks never reads it.
"""
