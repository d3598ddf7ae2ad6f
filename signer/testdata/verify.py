"""Verify DKIM signatures with dkimpy.

Standard input is a JSON object: "records" maps names of key records to their
text, "messages" is a list of {"message": base64, "signatures": n}. Standard
output is a JSON list with, for each message, a list of n results: "pass", or
why the signature at that place, counted from the top, does not verify.
"""
import base64
import json
import sys

import dkim

job = json.load(sys.stdin)
records = {name: txt.encode() for name, txt in job["records"].items()}


def lookup(name, timeout=5):
    return records.get(name.decode().rstrip("."))


def verify(message, index):
    try:
        ok = dkim.DKIM(message).verify(idx=index, dnsfunc=lookup)
        return "pass" if ok else "fail"
    except Exception as e:  # dkimpy lets several kinds through
        return "%s: %s" % (type(e).__name__, e)


results = []
for m in job["messages"]:
    message = base64.b64decode(m["message"])
    results.append([verify(message, i) for i in range(m["signatures"])])
json.dump(results, sys.stdout)
