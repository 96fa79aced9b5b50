using System.ComponentModel;
using System.Globalization;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Why a traced process stands still.</summary>
public enum TracedStop : byte
{
    /// <summary>It is gone: no register can be read any more.</summary>
    Ended,
    /// <summary>It made a system call, which the host did not execute; registers are those behind it.</summary>
    SystemCall,
    /// <summary>A signal came, and was not delivered.</summary>
    Signal,
    /// <summary>Somebody ends it: registers can be read once more.</summary>
    Ending,
}

/// <summary>
/// A process of the host that runs code under this process's control: it is started from an image in memory, stops at each system call and signal, and ends
/// when the thread that started it does. Only that thread may call, but for <see cref="Interrupt"/>.
/// </summary>
/// <remarks>Invariant: between calls the process stands still (or is gone), so that its registers are those that were last read or written.</remarks>
public sealed unsafe class TracedProcess : IDisposable
{
    private const int Trapped = 5, SystemCallMark = 0x80;
    private int _id; // 0: gone

    /// <param name="image">A static ELF executable whose first instructions ask to be traced and then raise a breakpoint trap.</param>
    /// <param name="memory">What the process gets as its only descriptor beside the image.</param>
    /// <exception cref="Win32Exception">The host refuses: no processes, no tracing, no execution of memory.</exception>
    public TracedProcess(SharedBytes image, RamBacking memory)
    {
        (ImageDescriptor, MemoryDescriptor) = (FreeNumber(image.Descriptor, memory.Descriptor, 3), 0);
        MemoryDescriptor = FreeNumber(image.Descriptor, memory.Descriptor, ImageDescriptor + 1);
        _id = Start(image.Descriptor, memory.Descriptor);
        if (Wait() != TracedStop.Signal || Signal != Trapped)
        {
            Dispose();
            throw new Win32Exception(Errno.NotPermitted, "a process cannot be traced");
        }
        const nint options = Libc.TraceOptionKillAtExit | Libc.TraceOptionMarkSystemCalls | Libc.TraceOptionStopAtExit;
        Check(Libc.Ptrace(Libc.TraceSetOptions, _id, null, (void*)options));
    }

    /// <summary>Numbers of the descriptors in the process.</summary>
    public int ImageDescriptor { get; }

    /// <inheritdoc cref="ImageDescriptor"/>
    public int MemoryDescriptor { get; }

    /// <summary>The host's number of the process; 0: it is gone. Any thread.</summary>
    public int Id => Volatile.Read(ref _id);

    /// <summary>The signal of the last <see cref="TracedStop.Signal"/>, by its number.</summary>
    public int Signal { get; private set; }

    private static int FreeNumber(int one, int other, int from)
    {
        while (from == one || from == other) from++;
        return from;
    }

    private int Start(int image, int memory)
    {
        byte* actions = stackalloc byte[Libc.SpawnStructureSize], attributes = stackalloc byte[Libc.SpawnStructureSize], mask = stackalloc byte[128];
        new Span<byte>(mask, 128).Clear();
        byte** none = stackalloc byte*[1];
        *none = null;
        int process;
        _ = Libc.SpawnActionsInit(actions);
        _ = Libc.SpawnAttributesInit(attributes);
        try
        {
            CheckError(Libc.SpawnActionsAddDup2(actions, image, ImageDescriptor));
            CheckError(Libc.SpawnActionsAddDup2(actions, memory, MemoryDescriptor));
            CheckError(Libc.SpawnAttributesSetFlags(attributes, Libc.SpawnSetSignalMask | Libc.SpawnSetSession));
            CheckError(Libc.SpawnAttributesSetSignalMask(attributes, mask));
            CheckError(Libc.Spawn(&process, string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{image}"), actions, attributes, none, none));
        }
        finally
        {
            _ = Libc.SpawnActionsDestroy(actions);
            _ = Libc.SpawnAttributesDestroy(attributes);
        }
        return process;
    }

    /// <summary>Any thread: the process stops soon with a signal that means nothing else, or if it stands still does so when it is next continued.</summary>
    public void Interrupt()
    {
        int id = Id;
        if (id != 0) _ = Libc.Kill(id, Libc.SigUser1);
    }

    /// <summary>The signal of <see cref="Interrupt"/>.</summary>
    public bool WasInterrupted => Signal == Libc.SigUser1;

    /// <summary>Runs it until it stops; no system call of it is executed.</summary>
    public TracedStop Run() => Continue(Libc.TraceSystemCallsEmulated);

    /// <summary>Runs it until a signal stops it; its system calls are real.</summary>
    public TracedStop RunTrusted() => Continue(Libc.TraceContinue);

    /// <summary>How often it was let run, and waited for.</summary>
    public long Turns { get; private set; }

    private TracedStop Continue(int request)
    {
        Turns++;
        if (_id == 0 || Libc.Ptrace(request, _id, null, null) != 0) return Lost();
        return Wait();
    }

    private TracedStop Wait()
    {
        int status, waited;
        do waited = Libc.Waitpid(_id, &status, Libc.WaitForAll);
        while (waited < 0 && Marshal.GetLastPInvokeError() == Errno.Interrupted);
        if (waited < 0) return Lost();
        if ((status & 0xFF) != 0x7F)
        {
            _id = 0; // reaped
            return TracedStop.Ended;
        }
        if (status >> 16 == Libc.TraceEventExit) return TracedStop.Ending;
        int signal = status >> 8 & 0xFF;
        if (signal == (Trapped | SystemCallMark)) return TracedStop.SystemCall;
        Signal = signal;
        return TracedStop.Signal;
    }

    private TracedStop Lost()
    {
        Dispose();
        return TracedStop.Ended;
    }

    /// <summary>False: the process is gone.</summary>
    public bool TryGetRegisters(TracedRegisters* registers) => Succeeded(Libc.Ptrace(Libc.TraceGetRegisters, _id, null, registers));

    /// <summary>False: the process is gone, or the host refuses the values.</summary>
    public bool TrySetRegisters(TracedRegisters* registers) => Succeeded(Libc.Ptrace(Libc.TraceSetRegisters, _id, null, registers));

    /// <summary>Reads the XSAVE area in its standard format. False: the process is gone.</summary>
    /// <param name="length">Bytes of room; becomes those of the area.</param>
    public bool TryGetExtended(byte* area, ref nuint length)
    {
        var vector = new Libc.IoVector { Base = area, Length = length };
        if (!Succeeded(Libc.Ptrace(Libc.TraceGetRegisterSet, _id, (void*)Libc.XstateNote, &vector))) return false;
        length = vector.Length;
        return true;
    }

    /// <summary>Writes the whole XSAVE area. False: the process is gone, or the host refuses the values.</summary>
    public bool TrySetExtended(byte* area, nuint length)
    {
        var vector = new Libc.IoVector { Base = area, Length = length };
        return Succeeded(Libc.Ptrace(Libc.TraceSetRegisterSet, _id, (void*)Libc.XstateNote, &vector));
    }

    /// <summary>Nanoseconds that a processor of the host has spent on it so far; 0 if it is gone.</summary>
    public long ProcessorTime => _id == 0 ? 0 : HostScheduling.ProcessTime(_id);

    /// <summary>Most places of <see cref="TrySetBreakpoints"/>.</summary>
    public const int MostBreakpoints = 4;

    /// <summary>
    /// Makes the processor stop, with SIGTRAP, before an instruction that begins at one of these places is executed, and nowhere else (Intel SDM vol. 3B,
    /// "Debug Registers"). False: the process is gone, or the host does not do it.
    /// </summary>
    /// <param name="places">Linear addresses, at most <see cref="MostBreakpoints"/>.</param>
    public bool TrySetBreakpoints(ReadOnlySpan<ulong> places)
    {
        const int control = 7;
        // Off first: the host refuses to move one that is on to where it must not be, even for a moment.
        ulong enabled = 0;
        if (!TryPoke(control, 0)) return false;
        for (int n = 0; n < places.Length; n++)
        {
            if (!TryPoke(n, places[n])) return false;
            enabled |= 1ul << 2 * n; // L0 to L3; R/W and LEN of zero are execution
        }
        return places.Length == 0 || TryPoke(control, enabled);

        bool TryPoke(int register, ulong value) =>
            Succeeded(Libc.Ptrace(Libc.TracePokeUser, _id, (void*)(Libc.UserDebugRegisters + 8 * register), (void*)value));
    }

    /// <summary>The siginfo_t of the last signal: its code and address (si_code, si_addr). False: the process is gone.</summary>
    public bool TryGetSignal(out int code, out ulong address)
    {
        byte* information = stackalloc byte[128];
        bool known = Succeeded(Libc.Ptrace(Libc.TraceGetSignal, _id, null, information));
        code = *(int*)(information + 8);
        address = *(ulong*)(information + 16);
        return known;
    }

    private bool Succeeded(nint result) => _id != 0 && result == 0;

    private void Check(nint result)
    {
        if (result == 0) return;
        int error = Marshal.GetLastPInvokeError();
        Dispose();
        throw new Win32Exception(error);
    }

    private static void CheckError(int error)
    {
        if (error != 0) throw new Win32Exception(error);
    }

    /// <summary>Ends the process. Idempotent.</summary>
    public void Dispose()
    {
        int id = Interlocked.Exchange(ref _id, 0);
        if (id == 0) return;
        _ = Libc.Kill(id, Libc.Sigkill);
        _ = Libc.Ptrace(Libc.TraceContinue, id, null, null); // it may stand still at its end already
        int status;
        // At its end it stops once more, so that its registers can be read. Only its tracer lets it go on; when that thread ends, it ends as well.
        while (Libc.Waitpid(id, &status, Libc.WaitForAll) == id && (status & 0xFF) == 0x7F)
            if (Libc.Ptrace(Libc.TraceContinue, id, null, null) != 0) return;
    }
}
