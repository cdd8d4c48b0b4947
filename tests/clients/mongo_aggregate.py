"""Runs an aggregation of MongoDB over documents, in mongomock: an emulator, for what the server of the tests lacks.

Reads one JSON object, {"documents": [...], "command": {...}} with values as Extended JSON has them, and prints what the
command's pipeline makes of the documents, one a line.
"""

import json
import sys
from datetime import datetime, timedelta, timezone

import mongomock

EPOCH = datetime(1970, 1, 1)


def value(found):
    """A value of Extended JSON, relaxed or canonical, as far as it is not one of JSON already."""
    if found.keys() == {"$date"}:
        moment = found["$date"]
        if isinstance(moment, str):
            form = "%Y-%m-%dT%H:%M:%S.%f%z" if "." in moment else "%Y-%m-%dT%H:%M:%S%z"
            return datetime.strptime(moment, form).astimezone(timezone.utc).replace(tzinfo=None)
        return EPOCH + timedelta(milliseconds=moment)
    if found.keys() in ({"$numberLong"}, {"$numberInt"}):
        return int(next(iter(found.values())))
    return found


given = json.load(sys.stdin, object_hook=value)
command = given["command"]
collection = mongomock.MongoClient().fleet[command["aggregate"]]
if given["documents"]:
    collection.insert_many(given["documents"])
for document in collection.aggregate(command["pipeline"]):
    print(json.dumps(document))
