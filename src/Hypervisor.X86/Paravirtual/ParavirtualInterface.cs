using System.Numerics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor.X86.Paravirtual;

/// <summary>Sends interrupts to local APICs on behalf of a hypercall.</summary>
public interface IInterruptSender
{
    /// <summary>Sends what an ICR says to one APIC ID. False: nobody took it. With <see cref="VirtualMachine.InterruptLock"/> held.</summary>
    bool Send(uint apicId, uint icr);

    /// <summary>The number of the vCPU with an APIC ID, or -1.</summary>
    int FindCpu(uint apicId);
}

/// <summary>
/// KVM's paravirtual interface for the guests of one VM: CPUID leaves, MSRs and hypercalls by which stock kernels find clock, steal time and the rest. The
/// work between exits is in <see cref="ParavirtualCpu"/>.
/// </summary>
/// <remarks>
/// Linux, Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst. Asynchronous page faults, page-table calls and migration control are not offered.
/// </remarks>
public sealed class ParavirtualInterface : IMsrDevice, IDevice, IStateful<ParavirtualState>
{
    private const uint FeatureLeaf = 0x4000_0001;

    private readonly X86Machine _vm;
    private readonly KvmFeatures _features;
    private readonly Lock _tscLock = new(); // the last one to look sees all offsets
    private ParavirtualCpu[] _cpus = [];
    private ulong _wallClockMsr;
    private volatile bool _tscDiffers;

    internal ParavirtualInterface(X86Machine vm, KvmFeatures features)
    {
        _vm = vm;
        _features = features;
        (ClockMultiplier, ClockShift) = FindScale(vm.Clock.CounterFrequency);
    }

    /// <summary>What a VM on this host offers.</summary>
    public static KvmFeatures Offered =>
        KvmFeatures.ClockSource | KvmFeatures.ClockSource2 | KvmFeatures.ClockSourceStable | KvmFeatures.NopIoDelay | KvmFeatures.PvEoi | KvmFeatures.PvUnhalt
        | KvmFeatures.PvSendIpi | KvmFeatures.PollControl | KvmFeatures.PvSchedYield
        | (ThreadAccounting.IsAvailable ? KvmFeatures.StealTime | KvmFeatures.PvTlbFlush : 0);

    /// <summary>What a CPU model shows of this interface.</summary>
    public static HypervisorInterface Describe(KvmFeatures features, KvmHints hints) => new(
        "KVMKVMKVM",
        new Dictionary<uint, CpuidResult> { [FeatureLeaf] = new((uint)features, 0, 0, (uint)hints) },
        [(KvmMsr.WallClockOld, KvmMsr.SystemTimeOld), (KvmMsr.First, KvmMsr.Last)]);

    /// <summary>Where interrupts of the guest go; set by the board before the start.</summary>
    public IInterruptSender? Interrupts { get; set; }

    internal VirtualClock Clock => _vm.Clock;
    internal GuestMemory Memory => _vm.Memory;
    internal DeviceLock InterruptLock => _vm.InterruptLock;
    internal bool Has(KvmFeatures feature) => (_features & feature) == feature;

    internal ParavirtualCpu Add(X86CpuThread thread)
    {
        var cpu = new ParavirtualCpu(this, thread);
        _cpus = [.. _cpus, cpu];
        return cpu;
    }

    // ---- kvmclock: nanoseconds of virtual time, which are a function of the TSC alone and therefore alike on all vCPUs

    /// <summary>ns of TSC ticks: shifted left by <see cref="ClockShift"/>, times this, divided by 2^32.</summary>
    internal uint ClockMultiplier { get; }
    internal sbyte ClockShift { get; }

    /// <summary>The vCPUs' TSCs have one zero.</summary>
    internal bool TscIsStable => !_tscDiffers;

    /// <summary>The factor with all its 32 bits in use.</summary>
    internal static (uint Multiplier, sbyte Shift) FindScale(ulong frequency)
    {
        // ns = ticks × 10^9 / frequency, written as ticks × 2^shift × multiplier / 2^32.
        const ulong second = 1_000_000_000;
        int shift = 0;
        for (; second >> shift >= frequency; shift++)
        {
        }
        for (; shift <= 0 && second << -shift < frequency / 2; shift--)
        {
        }
        // 64 bits behind the point, all of them in use, to the nearest of 32.
        (ulong whole, ulong rest) = Math.DivRem(shift >= 0 ? second : second << -shift, frequency);
        ulong exact = WideMath.Divide(rest, 0, frequency, out _);
        if (shift > 0) exact = whole << (64 - shift) | exact >> shift;
        return (exact > ulong.MaxValue - (1u << 31) ? uint.MaxValue : (uint)((exact + (1u << 31)) >> 32), (sbyte)shift);
    }

    /// <summary>A vCPU's TSC was set: all clock pages tell whether the TSCs still agree. On a vCPU's thread.</summary>
    internal void TscChanged()
    {
        lock (_tscLock)
        {
            ulong first = _cpus[0].TscOffset;
            _tscDiffers = Array.Exists(_cpus, c => c.TscOffset != first);
        }
        for (int n = 0; n < _cpus.Length; n++)
        {
            _cpus[n].ClockChanged(stopped: false);
            _vm.Cpus[n].Cpu.Kick();
        }
    }

    /// <summary>
    /// Each vCPU that has a clock page is told, once, that the host stopped the guest for a while, so that its watchdogs look for nothing that hangs: bit 1 of
    /// the page's flags (PVCLOCK_GUEST_STOPPED), which the guest clears. No vCPU runs. <see cref="VirtualMachine.Resume"/> does it; so does who lets a guest go
    /// on that was held in another way.
    /// </summary>
    public void NoteStopped()
    {
        foreach (ParavirtualCpu cpu in _cpus) cpu.ClockChanged(stopped: true);
    }

    /// <summary>The time of day at which the clock was 0.</summary>
    private unsafe void WriteWallClock(ulong address)
    {
        var window = new GuestWindow(Memory, address, sizeof(WallClockPage));
        if (address == 0 || !window.IsUsable) return;
        long nanoseconds = (_vm.TimeOfDay.GetUtcNow().UtcDateTime - DateTime.UnixEpoch).Ticks * 100 - Clock.Nanoseconds;
        window.Prepare();
        var page = (WallClockPage*)window.Pointer;
        uint version = Volatile.Read(ref page->Version) | 1;
        Volatile.Write(ref page->Version, version);
        Thread.MemoryBarrier();
        (page->Seconds, page->Nanoseconds) = ((uint)(nanoseconds / 1_000_000_000), (uint)(nanoseconds % 1_000_000_000));
        Thread.MemoryBarrier();
        Volatile.Write(ref page->Version, version + 1);
        window.Written();
    }

    // ---- state

    /// <inheritdoc/>
    public string Id => "kvm";

    /// <summary>The vCPUs' sides, each a part of the machine's state by itself.</summary>
    internal IReadOnlyList<ParavirtualCpu> Cpus => _cpus;

    /// <summary>RESET: the guest's structures are forgotten, of all vCPUs.</summary>
    public void Reset()
    {
        _wallClockMsr = 0;
        _tscDiffers = false;
        foreach (ParavirtualCpu cpu in _cpus) cpu.Reset();
    }

    ParavirtualState IStateful<ParavirtualState>.Save() => new((uint)_features, _wallClockMsr, _tscDiffers);

    void IStateful<ParavirtualState>.Restore(ParavirtualState state)
    {
        if (state.Features != (uint)_features)
            throw new StateFormatException($"{Id}: the saved machine offers the features {state.Features:X}, this one {(uint)_features:X}");
        (_wallClockMsr, _tscDiffers) = (state.WallClock, state.TscDiffers);
    }

    // ---- MSRs

    /// <inheritdoc/>
    public bool TryReadMsr(int cpu, uint index, out ulong value)
    {
        if (index is not (KvmMsr.WallClock or KvmMsr.WallClockOld)) return _cpus[cpu].TryRead(index, out value);
        value = _wallClockMsr;
        return true;
    }

    /// <inheritdoc/>
    public bool TryWriteMsr(int cpu, uint index, ulong value)
    {
        if (index is not (KvmMsr.WallClock or KvmMsr.WallClockOld)) return _cpus[cpu].TryWrite(index, value);
        _wallClockMsr = value;
        WriteWallClock(value);
        return true;
    }

    // ---- hypercalls

    /// <summary>Does what a guest asks for and returns what goes to RAX. On the vCPU's thread, without a lock.</summary>
    public ulong Call(int cpu, in HypercallArguments call)
    {
        HypercallArguments c = call.Is64Bit ? call
            : call with { Number = (uint)call.Number, A0 = (uint)call.A0, A1 = (uint)call.A1, A2 = (uint)call.A2, A3 = (uint)call.A3 };
        long result = c.PrivilegeLevel != 0 ? -(long)HypercallError.NotPermitted : Dispatch(cpu, c);
        return call.Is64Bit ? (ulong)result : (uint)result;
    }

    private long Dispatch(int cpu, in HypercallArguments call)
    {
        switch ((HypercallNumber)call.Number)
        {
            case HypercallNumber.VapicPollIrq:
                return 0;
            case HypercallNumber.KickCpu when Interrupts is { } sender:
                int target;
                lock (InterruptLock) target = sender.FindCpu((uint)call.A1);
                if (target >= 0) _vm.Cpus[target].Unhalt();
                return 0;
            case HypercallNumber.SendIpi when Interrupts is { } sender:
                return SendIpi(sender, call);
            case HypercallNumber.SchedYield:
                _vm.Cpus[cpu].Paravirtual?.WaitForOthers();
                return 0;
            case HypercallNumber.ClockPairing:
                return PairClocks(cpu, call.A0, call.A1);
            default:
                return -(long)HypercallError.NoSuchCall;
        }
    }

    /// <summary>Returns to how many destinations the interrupt was delivered.</summary>
    private long SendIpi(IInterruptSender sender, in HypercallArguments call)
    {
        const uint destinationMode = 1 << 11, shorthand = 3 << 18, deliveryMode = 7 << 8, fixedMode = 0, nmi = 4 << 8;
        var icr = (uint)call.A3;
        if ((icr & (destinationMode | shorthand)) != 0 || (icr & deliveryMode) is not (fixedMode or nmi)) return -(long)HypercallError.Invalid;
        int width = call.Is64Bit ? 64 : 32;
        long delivered = 0;
        lock (InterruptLock)
        {
            delivered += Send(call.A0, (uint)call.A2);
            delivered += Send(call.A1, (uint)call.A2 + (ulong)width);
        }
        return delivered;

        long Send(ulong bitmap, ulong lowest)
        {
            long count = 0;
            for (; bitmap != 0; bitmap &= bitmap - 1)
            {
                // The highest number means all processors to an APIC, but not here.
                ulong id = lowest + (ulong)BitOperations.TrailingZeroCount(bitmap);
                if (id < uint.MaxValue && sender.Send((uint)id, icr)) count++;
            }
            return count;
        }
    }

    private unsafe long PairClocks(int cpu, ulong address, ulong type)
    {
        if (type != ClockPairing.WallClock) return -(long)HypercallError.NotSupported;
        var window = new GuestWindow(Memory, address, sizeof(ClockPairing));
        if (!window.IsUsable) return -(long)HypercallError.Fault;
        // The TSC between two looks at the time of day.
        long before = _vm.TimeOfDay.GetUtcNow().UtcDateTime.Ticks;
        ulong tsc = Clock.Counter + _cpus[cpu].TscOffset;
        long ticks = (before + _vm.TimeOfDay.GetUtcNow().UtcDateTime.Ticks) / 2 - DateTime.UnixEpoch.Ticks;
        window.Prepare();
        *(ClockPairing*)window.Pointer = new ClockPairing
        {
            Seconds = ticks / TimeSpan.TicksPerSecond,
            Nanoseconds = ticks % TimeSpan.TicksPerSecond * 100,
            Tsc = tsc
        };
        window.Written();
        return 0;
    }
}

/// <summary>What KVM's interface knows of the machine.</summary>
/// <param name="Features">What it offers.</param>
/// <param name="WallClock">The MSR of the wall clock.</param>
/// <param name="TscDiffers">The TSCs of the vCPUs have different zeros.</param>
[StateRecord("kvm", version: 1)]
internal sealed record ParavirtualState(uint Features, ulong WallClock, bool TscDiffers);
