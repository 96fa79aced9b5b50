# A repository's history: many files, commits, a repack, a look back.
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1
git init -q -b main r
cd r
head -n 30000 /bench/data/text | split -l 200 -a 3 - part-
git add .
git commit -q -m first
for i in 1 2 3 4 5 6; do
    for f in part-a[a-e]*; do echo "line $i" >>"$f"; done
    git add .
    git commit -q -m "change $i"
done
git repack -a -d -q --threads=1
git log --stat --format=%H | md5sum
git rev-parse HEAD
git fsck --full 2>&1 | wc -c
