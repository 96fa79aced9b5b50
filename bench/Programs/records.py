# Objects, dictionaries, sorting, JSON, generators, big integers.
import hashlib
import json
import re


class Record:
    __slots__ = ("key", "name", "values")

    def __init__(self, key):
        self.key = key
        self.name = "record-%05d" % (key * 7919 % 100003)
        self.values = [(key * i * i) % 1009 for i in range(12)]

    def total(self):
        return sum(v for v in self.values if v % 3)


records = [Record(k) for k in range(20000)]
records.sort(key=lambda r: (r.total(), r.name))
text = json.dumps([{"name": r.name, "values": r.values} for r in records[:10000]])
back = json.loads(text)
groups = {}
for r in back:
    groups.setdefault(r["name"][-2:], []).append(max(r["values"]))
words = re.findall(r"record-(\d)(\d+)", text)
number = 1
for k in range(1, 1500):
    number *= k
print(hashlib.sha256(text.encode()).hexdigest(), len(words))
print(sorted((k, sum(v)) for k, v in groups.items())[:10])
print(sum(int(d) for d in str(number)[:4000]))
