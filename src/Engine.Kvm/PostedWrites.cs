using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>
/// The ring in which KVM gathers the writes of all vCPUs of a VM that need no exit of their own. One vCPU at a time shows them, and until it is done no
/// other one shows anything, so that nobody sees what came after a write before the write.
/// </summary>
/// <remarks>
/// Invariant: <c>ring</c> is the page that KVM maps behind each vCPU's run structure. KVM alone writes Last, the owner alone First; both are indexes below
/// <see cref="KvmCoalescedRing.Capacity"/>, which is checked, and as KVM made them the guest has no say in them.
/// </remarks>
internal sealed unsafe class PostedWrites(KvmCoalescedRing* ring)
{
    private int _owner; // number of the vCPU that shows the writes, plus 1; 0: none

    private readonly KvmCoalescedRing.Entry* _entries = (KvmCoalescedRing.Entry*)(ring + 1);

    private bool IsEmpty => ring->First == Volatile.Read(ref ring->Last);

    /// <summary>Nothing to wait for and nothing to show.</summary>
    public bool IsIdle => IsEmpty && Volatile.Read(ref _owner) == 0;

    /// <summary>The vCPU has the word. False while another one has it.</summary>
    public bool TryOwn(int cpu) => Volatile.Read(ref _owner) == cpu + 1 || Interlocked.CompareExchange(ref _owner, cpu + 1, 0) == 0;

    public bool IsOwn(int cpu) => Volatile.Read(ref _owner) == cpu + 1;

    public void Release(int cpu) => Interlocked.CompareExchange(ref _owner, 0, cpu + 1);

    /// <summary>Takes the next write. False when there is none. Only the owner.</summary>
    public bool TryTake(X86Exit exit)
    {
        if (IsEmpty) return false;
        uint at = ring->First % KvmCoalescedRing.Capacity;
        KvmCoalescedRing.Entry* e = _entries + at;
        exit.Reason = e->IsPort != 0 ? ExitReason.Io : ExitReason.Mmio;
        exit.IsWrite = true;
        exit.Address = e->Address;
        exit.Size = (int)Math.Clamp(e->Length, 1, 8);
        exit.Data = exit.Size == 8 ? e->Data : e->Data & ((1ul << exit.Size * 8) - 1);
        exit.Fault = false;
        exit.Message = null;
        Volatile.Write(ref ring->First, (at + 1) % KvmCoalescedRing.Capacity);
        return true;
    }
}
