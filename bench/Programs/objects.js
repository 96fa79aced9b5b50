// Objects, closures, sorting, JSON, typed arrays: what a JIT compiler translates while it runs.
'use strict';
const crypto = require('crypto');

class Point {
    constructor(x, y) { this.x = x; this.y = y; }
    distance(o) { return Math.hypot(this.x - o.x, this.y - o.y); }
}

let seed = 12345;
const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff) / 0x7fffffff;

const points = Array.from({ length: 60000 }, () => new Point(random() * 1000, random() * 1000));
const origin = new Point(500, 500);
points.sort((a, b) => a.distance(origin) - b.distance(origin) || a.x - b.x);
const names = new Map();
for (const p of points) {
    const key = `${Math.floor(p.x / 10)}:${Math.floor(p.y / 10)}`;
    names.set(key, (names.get(key) || []).concat(p));
}
const text = JSON.stringify([...names.entries()]);
const back = JSON.parse(text);
const sieve = new Uint8Array(2000000);
let primes = 0;
for (let i = 2; i < sieve.length; i++) {
    if (sieve[i]) continue;
    primes++;
    for (let j = i * 2; j < sieve.length; j += i) sieve[j] = 1;
}
console.log(back.length, primes, crypto.createHash('sha256').update(text).digest('hex'));
