using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>Doorbells are ioeventfds, interrupts irqfds, posted writes coalesced ones.</summary>
/// <remarks>Linux Documentation/virt/kvm/api.rst, "KVM_IOEVENTFD", "KVM_IRQFD", "KVM_(UN)REGISTER_COALESCED_MMIO".</remarks>
internal sealed unsafe class KvmShortcuts(KvmFile vm, Func<KvmApics?> apics) : IEngineShortcuts
{
    private readonly bool _hasDoorbells = vm.Check(KvmCapability.Ioeventfd) != 0, _hasInterrupts = vm.Check(KvmCapability.Irqfd) != 0;
    private readonly bool _postsMmio = vm.Check(KvmCapability.CoalescedMmio) != 0, _postsPorts = vm.Check(KvmCapability.CoalescedPio) != 0;
    private readonly Dictionary<EventDescriptor, int> _interrupts = [];
    private readonly Lock _lock = new();

    public bool TryAddDoorbell(in Doorbell doorbell, EventDescriptor signalled)
    {
        if (!_hasDoorbells || !IsPossible(doorbell)) return false;
        KvmIoeventfd bell = ToKvm(doorbell, signalled);
        long result = vm.TryRequest(KvmRequest.Ioeventfd, &bell);
        if (result == -Errno.NoSpace) return false; // KVM has room for so many devices and no more
        return result >= 0 ? true : throw KvmFile.Failed(KvmRequest.Ioeventfd, (int)-result);
    }

    public void RemoveDoorbell(in Doorbell doorbell, EventDescriptor signalled)
    {
        if (!_hasDoorbells || !IsPossible(doorbell)) return;
        KvmIoeventfd bell = ToKvm(doorbell, signalled);
        bell.Flags |= KvmIoeventfd.Deassign;
        long result = vm.TryRequest(KvmRequest.Ioeventfd, &bell);
        if (result < 0 && result != -Errno.NoEntry) throw KvmFile.Failed(KvmRequest.Ioeventfd, (int)-result);
    }

    private static bool IsPossible(in Doorbell d) => d.Size is 1 or 2 or 4 || (d.Size == 8 && !d.IsPort);

    private static KvmIoeventfd ToKvm(in Doorbell d, EventDescriptor signalled) => new()
    {
        Address = d.Address,
        Length = (uint)d.Size,
        Data = d.Value ?? 0,
        Descriptor = signalled.Descriptor,
        Flags = (d.Value is null ? 0 : KvmIoeventfd.DataMatch) | (d.IsPort ? KvmIoeventfd.Pio : 0),
    };

    public bool TryConnectInterrupt(EventDescriptor signal, MsiMessage message)
    {
        if (!_hasInterrupts || apics() is not { } fabric) return false;
        lock (_lock)
        {
            if (_interrupts.ContainsKey(signal)) throw new InvalidOperationException("the event leads to an interrupt already");
            if (fabric.AddRoute(message) is not { } gsi) return false;
            var irqfd = new KvmIrqfd { Descriptor = (uint)signal.Descriptor, Gsi = (uint)gsi };
            long result = vm.TryRequest(KvmRequest.Irqfd, &irqfd);
            if (result < 0)
            {
                fabric.RemoveRoute(gsi);
                throw KvmFile.Failed(KvmRequest.Irqfd, (int)-result);
            }
            _interrupts.Add(signal, gsi);
            return true;
        }
    }

    public void DisconnectInterrupt(EventDescriptor signal)
    {
        lock (_lock)
        {
            if (!_interrupts.Remove(signal, out int gsi)) return;
            var irqfd = new KvmIrqfd { Descriptor = (uint)signal.Descriptor, Gsi = (uint)gsi, Flags = KvmIrqfd.Deassign };
            vm.Request(KvmRequest.Irqfd, &irqfd);
            apics()!.RemoveRoute(gsi);
        }
    }

    public bool TryPostWrites(bool isPort, ulong address, uint length)
    {
        if (isPort ? !_postsPorts : !_postsMmio) return false;
        var zone = new KvmCoalescedZone { Address = address, Size = length, IsPort = isPort ? 1u : 0 };
        long result = vm.TryRequest(KvmRequest.RegisterCoalesced, &zone);
        if (result == -Errno.NoSpace) return false;
        return result >= 0 ? true : throw KvmFile.Failed(KvmRequest.RegisterCoalesced, (int)-result);
    }
}
