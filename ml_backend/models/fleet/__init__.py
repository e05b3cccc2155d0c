"""Workers on the hosts of a Ray cluster.

The server never imports Ray. A process of its own, the *link*, is the cluster's driver: Ray ends a driver whose head is
lost for good, and the server must outlive that. The link puts an actor on each device of each host. An actor owns a
model process as the server owns one on its own machine, so that both work alike.

    server (Fleet, RayWorker) ⇄ pipe ⇄ link (ClusterLink) ⇄ Ray ⇄ actor (ModelActor) ⇄ pipe ⇄ model process
"""
