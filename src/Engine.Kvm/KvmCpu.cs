using System.Runtime.CompilerServices;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>One vCPU of KVM behind the exit boundary.</summary>
/// <remarks>
/// KVM finishes the instruction of an exit only when it is entered again (Documentation/virt/kvm/api.rst, "KVM_RUN"); an entry with immediate_exit set does
/// that and nothing more. The kernel holds no interrupt controller, so the value of CR8 goes to and fro in the run structure, and KVM says in
/// it whether an interrupt can be injected.
/// </remarks>
internal sealed unsafe partial class KvmCpu : IVirtualCpu
{
    private readonly KvmShared _vm;
    private readonly KvmFile _file;
    private readonly KvmRun* _run;
    private readonly int _runSize;
    private readonly ExitPieces _pieces;

    private ExecutionControls _controls = new();
    private bool _presented;     // the last piece was returned: its answer is to be taken at the next entry
    private volatile bool _disposed, _released;
    private int _kickers;        // threads inside Kick
    private ulong _cr8;          // what the hypervisor knows
    private bool _cr8Presented;
    private int _kick;           // 1: somebody wants Enter to return
    private int _hostThread;     // kernel's number of the thread inside KVM_RUN; 0: none
    private int _lastManagedThread, _lastHostThread;
    private bool _ready;         // KVM takes an interrupt at the next entry
    private ulong _interruptsDelivered;

    /// <param name="run">The vCPU's run structure, <paramref name="runSize"/> bytes, which lives until <see cref="Release"/>.</param>
    public KvmCpu(KvmShared vm, int index, KvmFile file, KvmRun* run, int runSize)
    {
        _vm = vm;
        Index = index;
        _file = file;
        _run = run;
        _runSize = runSize;
        _pieces = new ExitPieces(run, runSize);
    }

    public int Index { get; }

    public EngineCounters Counters => new(0, 0, 0, 0, 0, 0, Volatile.Read(ref _interruptsDelivered));

    public ExecutionControls Controls
    {
        get => _controls;
        set
        {
            if ((value.Instructions & ~InterceptedInstructions.Mwait) != 0 || value.ExceptionBitmap != 0)
                throw new NotSupportedException($"KVM does not let {value.Instructions & ~InterceptedInstructions.Mwait} or exceptions (bitmap 0x{value.ExceptionBitmap:X}) exit; use the engine interp");
            _controls = value;
        }
    }

    // ---- events

    public bool InterruptWindowOpen => _ready && !_pieces.HasNext && !_disposed;

    /// <summary>KVM holds one NMI until the guest can take it.</summary>
    public bool NmiWindowOpen
    {
        get
        {
            KvmVcpuEvents events;
            _file.Request(KvmRequest.GetVcpuEvents, &events);
            return events.NmiPending == 0 && !_pieces.HasNext;
        }
    }

    public void InjectInterrupt(byte vector)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        uint number = vector;
        _file.Request(KvmRequest.Interrupt, &number);
        _ready = false;
        _interruptsDelivered++;
    }

    public void InjectNmi()
    {
        _file.Request(KvmRequest.Nmi);
        _interruptsDelivered++;
    }

    public void InjectException(byte vector, uint? errorCode)
    {
        KvmVcpuEvents events;
        _file.Request(KvmRequest.GetVcpuEvents, &events);
        SetPending(ref events, new PendingEvent(PendingEventKind.Exception, vector, errorCode));
        _file.Request(KvmRequest.SetVcpuEvents, &events);
        _ready = false;
    }

    public void SetTaskPriority(ulong cr8)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        // A write by the guest that the hypervisor has not seen yet stands.
        if (_cr8Presented || _run->Cr8 == _cr8) _run->Cr8 = _cr8 = cr8 & 0xF;
    }

    // ---- kicks

    /// <remarks>The order counts: whoever sees immediate_exit cleared by <see cref="ClearImmediateExit"/> after this finds <see cref="_kick"/> set.</remarks>
    public void Kick()
    {
        Interlocked.Increment(ref _kickers);
        if (!_released)
        {
            Volatile.Write(ref _kick, 1);
            Thread.MemoryBarrier();
            _run->ImmediateExit = 1;
            Thread.MemoryBarrier();
            int thread = Volatile.Read(ref _hostThread);
            if (thread != 0) ThreadSignal.Interrupt(thread);
        }
        Interlocked.Decrement(ref _kickers);
    }

    private void ClearImmediateExit()
    {
        _run->ImmediateExit = 0;
        Thread.MemoryBarrier();
    }

    private int HostThread()
    {
        int managed = Environment.CurrentManagedThreadId;
        if (managed != _lastManagedThread)
        {
            _lastHostThread = ThreadSignal.CurrentThread();
            _lastManagedThread = managed;
        }
        return _lastHostThread;
    }

    // ---- entering

    public VmExit Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        TakeAnswer();
        if (_pieces.HasNext) return Present();
        for (; ; )
        {
            KeepTime();
            _run->RequestInterruptWindow = _controls.InterruptWindowExiting ? (byte)1 : (byte)0;
            _unwatched = true;
            long result = Run();
            _ready = _run->ReadyForInterruptInjection != 0;
            if (result == -Errno.Interrupted || (result >= 0 && _run->ExitReason == KvmExit.Interrupted))
            {
                _pieces.Clear();
                ClearImmediateExit();
                bool kicked = Interlocked.Exchange(ref _kick, 0) != 0;
                if (Cr8Changed()) return Cr8Exit(kicked);
                if (kicked) return _pieces.Synthetic(ExitReason.Kicked);
                continue; // another signal, or a kick that an earlier exit has answered
            }
            if (result == -Errno.TryAgain) continue; // the kernel asks for another try
            if (result < 0)
            {
                _pieces.Clear();
                return Fail(KvmFile.Failed(KvmRequest.Run, (int)-result).Message);
            }
            if (_pieces.Begin() is { } problem) return Fail(problem);
            if (_run->ExitReason == KvmExit.SetTpr) _pieces.Clear(); // is nothing but the change of CR8
            if (Cr8Changed()) return Cr8Exit(kicked: false);
            if (_pieces.HasNext) return Present();
        }
    }

    private long Run()
    {
        Volatile.Write(ref _hostThread, HostThread());
        Thread.MemoryBarrier();
        long result = _file.TryRequest(KvmRequest.Run, 0);
        Volatile.Write(ref _hostThread, 0);
        return result;
    }

    /// <summary>What the hypervisor did about the last exit goes to KVM.</summary>
    private void TakeAnswer()
    {
        if (_cr8Presented)
        {
            _cr8Presented = false;
            return;
        }
        if (!_presented) return;
        _presented = false;
        ConvertDeadline(answer: true);
        _pieces.Answer();
        if (!_pieces.HasNext) NoteApicBase();
    }

    private VmExit Present()
    {
        VmExit exit = _pieces.Next();
        _presented = true;
        _last = exit;
        ConvertDeadline(answer: false);
        return exit;
    }

    private VmExit _last = new();

    /// <summary>CR8 belongs to the local APIC: a write shows up as an exit of its own, before the one that brought it to light.</summary>
    private bool Cr8Changed() => _run->Cr8 != _cr8;

    private readonly VmExit _cr8Exit = new();

    private VmExit Cr8Exit(bool kicked)
    {
        if (kicked) Kick(); // comes next
        _cr8 = _run->Cr8;
        _cr8Presented = true;
        _cr8Exit.Reason = ExitReason.CrAccess;
        _cr8Exit.Address = 8;
        _cr8Exit.IsWrite = true;
        _cr8Exit.Size = 8;
        _cr8Exit.Data = _cr8;
        return _cr8Exit;
    }

    private VmExit Fail(string problem)
    {
        string where;
        try
        {
            KvmRegisters r;
            KvmSystemRegisters s;
            _file.Request(KvmRequest.GetRegisters, &r);
            _file.Request(KvmRequest.GetSystemRegisters, &s);
            where = $"RIP={s.Cs.Selector:X4}:{r.Rip:X} RFLAGS={r.Rflags:X} RSP={r.Rsp:X} CS base={s.Cs.Base:X} CR0={s.Cr0:X} CR2={s.Cr2:X} CR3={s.Cr3:X} CR4={s.Cr4:X} EFER={s.Efer:X}";
        }
        catch (KvmException e)
        {
            where = e.Message;
        }
        return _pieces.Synthetic(ExitReason.InternalError, $"{problem}; {where}");
    }

    /// <summary>
    /// Finishes the instruction of the last exit without executing another one. What it still wants to know becomes the next exit.
    /// </summary>
    private void FinishInstruction()
    {
        if (!_pieces.AwaitsEntry || _pieces.HasNext) return;
        TakeAnswer();
        _pieces.Clear();
        _run->ImmediateExit = 1;
        long result = _file.TryRequest(KvmRequest.Run, 0);
        _ready = _run->ReadyForInterruptInjection != 0;
        ClearImmediateExit();
        if (Volatile.Read(ref _kick) != 0) _run->ImmediateExit = 1;
        if (result == -Errno.Interrupted) return;
        if (result < 0) throw KvmFile.Failed(KvmRequest.Run, (int)-result);
        if (_pieces.Begin() is { } problem) throw new InvalidOperationException(problem);
    }

    /// <summary>Not while <see cref="Enter"/> runs.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _file.Dispose();
    }

    /// <summary>Gives the run structure back. Later kicks find nothing to do.</summary>
    public void Release()
    {
        Dispose();
        if (_released) return;
        _released = true;
        Thread.MemoryBarrier();
        while (Volatile.Read(ref _kickers) != 0) Thread.Yield();
        if (_file is KvmDescriptor) KvmDescriptor.Unmap(_run, _runSize);
    }
}
