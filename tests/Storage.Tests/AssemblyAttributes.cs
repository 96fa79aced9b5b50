// A process that one test starts has the descriptors of all others, with their locks, from fork(2) until its exec(3): QEMU's tools would find an image locked
// that nobody has open any more.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
