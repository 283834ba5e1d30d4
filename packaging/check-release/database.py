#!/usr/bin/env python3
"""What the check does with its MongoDB as an operator would: each run is one step, on the server at URI.

    database.py URI initiate HOST:PORT USER PASSWORD   a replica set of one, and its first user
    database.py URI grant USER                         lets that user do what agents do
    database.py URI fill                               some data
    database.py URI print                              what is there: counts, hashes, indexes
    database.py URI drop
    database.py URI agents                             waits until an agent has reported
"""

import sys
import time

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

LIMIT = 60


def until(what, question):
    """The first answer that is true; asks again and again, for a minute."""
    end, last = time.monotonic() + LIMIT, None
    while time.monotonic() < end:
        try:
            if answer := question():
                return answer
        except PyMongoError as error:
            last = error
        time.sleep(0.2)
    sys.exit(f"database: no {what} within {LIMIT} s: {last}")


def initiate(client, host, user, password):
    config = {"_id": "rs0", "members": [{"_id": 0, "host": host}]}

    def start():
        try:
            return client.admin.command("replSetInitiate", config)
        except OperationFailure as error:
            if error.codeName == "AlreadyInitialized":
                return True
            raise

    until("mongod", start)
    until("primary", lambda: client.admin.command("hello")["isWritablePrimary"])
    # Allowed on localhost for the first user.
    client.admin.command("createUser", user, pwd=password, roles=["root"])


def grant(client, user):
    anything = [{"resource": {"anyResource": True}, "actions": ["anyAction"]}]
    client.admin.command("createRole", "pbmAnyAction", privileges=anything, roles=[])
    client.admin.command("grantRolesToUser", user, roles=["pbmAnyAction"])


def fill(client):
    shop = client.shop
    shop.orders.insert_many({"_id": n, "sku": f"sku-{n % 97}", "note": "thank you " * 20} for n in range(20000))
    shop.orders.create_index([("sku", 1)])
    shop.visits.insert_many({"_id": n, "page": n % 5} for n in range(1000))


def show(client):
    hashes = client.shop.command("dbHash")
    print(sorted(hashes["collections"].items()), sorted(client.shop.orders.index_information()))


def main():
    uri, step, *rest = sys.argv[1:]
    client = pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000)
    match step:
        case "initiate":
            initiate(client, *rest)
        case "grant":
            grant(client, *rest)
        case "fill":
            fill(client)
        case "print":
            show(client)
        case "drop":
            client.drop_database("shop")
        case "agents":
            until("agent", lambda: client.admin.pbmAgents.find_one({}))
        case _:
            sys.exit(f"database: unknown step {step}")


main()
