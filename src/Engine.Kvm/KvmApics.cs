using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>
/// The local APICs in the kernel (split irqchip): I/O APIC and 8259A stay the board's. The routing table's first 24 entries are the pins of the I/O APIC,
/// which tell KVM whose EOI comes out; behind them are the events that devices signal.
/// </summary>
/// <remarks>Linux Documentation/virt/kvm/api.rst, "KVM_CAP_SPLIT_IRQCHIP", "KVM_SET_GSI_ROUTING", "KVM_SIGNAL_MSI", "KVM_IRQFD".</remarks>
internal sealed unsafe class KvmApics : IEngineApics
{
    public const int Pins = 24;
    private const uint Use32BitIdentifiers = 1, NoBroadcastQuirk = 2;
    private const int HeaderSize = 8;

    /// <summary>What <see cref="TryCreate"/> needs.</summary>
    private static readonly KvmCapability[] s_needed = [KvmCapability.SplitIrqChip, KvmCapability.SignalMsi,
        KvmCapability.InterruptRouting, KvmCapability.MultiprocessingState];

    private readonly KvmFile _vm;
    private readonly Lock _routing = new();
    private readonly Dictionary<int, MsiMessage> _routes = [];
    private readonly int _mostRoutes;

    private KvmApics(KvmFile vm)
    {
        _vm = vm;
        _mostRoutes = vm.Check(KvmCapability.InterruptRouting);
    }

    /// <summary>
    /// Held while a message is delivered, and while a local APIC's registers are read, changed and written back: nothing that comes in between may be lost.
    /// </summary>
    public Lock Delivery { get; } = new();

    /// <summary>Capabilities that KVM lacks for local APICs of its own.</summary>
    public static IEnumerable<KvmCapability> Missing(KvmFile kvm) => s_needed.Where(c => kvm.Check(c) == 0);

    /// <summary>Before the first vCPU. Null when this KVM cannot hold the local APICs only.</summary>
    public static KvmApics? TryCreate(KvmFile vm)
    {
        if (Missing(vm).Any()) return null;
        try
        {
            vm.Enable(KvmCapability.SplitIrqChip, Pins);
            if (vm.Check(KvmCapability.X2ApicApi) != 0) vm.Enable(KvmCapability.X2ApicApi, Use32BitIdentifiers | NoBroadcastQuirk);
        }
        catch (KvmException)
        {
            return null; // the board's own are as good, only slower
        }
        return new KvmApics(vm);
    }

    public bool Deliver(MsiMessage message)
    {
        var msi = new KvmMsi { AddressLow = (uint)message.Address, AddressHigh = (uint)(message.Address >> 32), Data = message.Data };
        long result;
        lock (Delivery) result = _vm.TryRequest(KvmRequest.SignalMsi, &msi);
        // EPERM is how the kernel's -1 for "no local APIC is the destination" comes out.
        return result is >= 0 or -Errno.NotPermitted ? result > 0 : throw KvmFile.Failed(KvmRequest.SignalMsi, (int)-result);
    }

    public void SetRoute(int pin, MsiMessage? message)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)pin, (uint)Pins);
        lock (_routing)
        {
            if (message is { } m ? _routes.TryGetValue(pin, out MsiMessage old) && old == m : !_routes.ContainsKey(pin)) return;
            if (message is { } route) _routes[pin] = route;
            else _routes.Remove(pin);
            Apply();
        }
    }

    /// <summary>Makes an interrupt number for an event. Null when the table is full.</summary>
    public int? AddRoute(MsiMessage message)
    {
        lock (_routing)
        {
            if (_routes.Count >= _mostRoutes) return null;
            int gsi = Pins;
            while (_routes.ContainsKey(gsi)) gsi++;
            _routes[gsi] = message;
            Apply();
            return gsi;
        }
    }

    public void RemoveRoute(int gsi)
    {
        lock (_routing)
        {
            if (_routes.Remove(gsi)) Apply();
        }
    }

    /// <summary>The table is replaced as a whole.</summary>
    private void Apply()
    {
        byte[] table = new byte[HeaderSize + _routes.Count * sizeof(KvmMsiRoute)];
        fixed (byte* p = table)
        {
            *(uint*)p = (uint)_routes.Count;
            var entry = (KvmMsiRoute*)(p + HeaderSize);
            foreach ((int gsi, MsiMessage m) in _routes)
                *entry++ = new KvmMsiRoute
                {
                    Gsi = (uint)gsi,
                    Type = KvmMsiRoute.Msi,
                    AddressLow = (uint)m.Address,
                    AddressHigh = (uint)(m.Address >> 32),
                    Data = m.Data
                };
            _vm.Request(KvmRequest.SetRouting, p);
        }
    }
}
