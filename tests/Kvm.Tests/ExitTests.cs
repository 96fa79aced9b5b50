using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Kvm.Tests;

/// <summary>What the engine makes of KVM's exits, with exits that the test writes: Linux Documentation/virt/kvm/api.rst, "The kvm_run structure".</summary>
public sealed unsafe class ExitTests
{
    private readonly FakeVcpu _kvm = new();

    private void ThenIo(bool write, ushort port, byte size, params uint[] values) => _kvm.ThenExit(KvmExit.Io, () =>
    {
        KvmRun* run = _kvm.Run;
        run->ReadyForInterruptInjection = 1;
        (run->IoIsWrite, run->IoPort, run->IoSize, run->IoCount, run->IoDataOffset) = (write ? (byte)1 : (byte)0, port, size,
            (uint)values.Length, FakeVcpu.IoData);
        for (int n = 0; n < values.Length; n++)
            for (int i = 0; i < size; i++) IoData[n * size + i] = (byte)(values[n] >> 8 * i);
    });

    private byte* IoData => (byte*)_kvm.Run + FakeVcpu.IoData;

    private void ThenMmio(bool write, ulong address, params byte[] data) => _kvm.ThenExit(KvmExit.Mmio, () =>
    {
        KvmRun* run = _kvm.Run;
        (run->MmioIsWrite, run->MmioAddress, run->MmioLength) = (write ? (byte)1 : (byte)0, address, (uint)data.Length);
        for (int n = 0; n < data.Length; n++) run->MmioData[n] = write ? data[n] : (byte)0;
    });

    [Theory, InlineData(1, 0x12), InlineData(2, 0x1234), InlineData(4, 0x1234_5678)]
    public void Out_gives_port_width_and_value(byte size, uint value)
    {
        ThenIo(true, 0x3F8, size, value);
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Io, true, 0x3F8ul, (int)size, (ulong)value), (e.Reason, e.IsWrite, e.Address, e.Size, e.Data));
    }

    [Fact]
    public void A_string_instruction_becomes_one_exit_for_each_value_and_only_then_enters()
    {
        ThenIo(false, 0x1F0, 2, 0, 0, 0);
        for (ulong n = 1; n <= 3; n++)
        {
            X86Exit e = _kvm.Cpu.Enter();
            Assert.Equal((ExitReason.Io, false, 0x1F0ul, 2), (e.Reason, e.IsWrite, e.Address, e.Size));
            Assert.Equal(n == 3, _kvm.Cpu.InterruptWindowOpen);
            e.Data = n * 0x1111 | 0xFFFF_0000;
        }
        _kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
        Assert.Equal(new byte[] { 0x11, 0x11, 0x22, 0x22, 0x33, 0x33 }, new ReadOnlySpan<byte>(IoData, 6).ToArray());
    }

    [Fact]
    public void Mmio_is_split_at_8_byte_boundaries_and_its_answers_are_put_together()
    {
        ThenMmio(true, 0xFEB0_0005, 1, 2, 3, 4, 5, 6, 7, 8);
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Mmio, true, 0xFEB0_0005ul, 3, 0x030201ul), (e.Reason, e.IsWrite, e.Address, e.Size, e.Data));
        e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Mmio, true, 0xFEB0_0008ul, 5, 0x0807060504ul), (e.Reason, e.IsWrite, e.Address, e.Size, e.Data));

        ThenMmio(false, 0xFEB0_0006, new byte[4]);
        _kvm.Cpu.Enter().Data = 0xBBAA;
        _kvm.Cpu.Enter().Data = 0xDDCC;
        _kvm.ThenExit(KvmExit.Hlt);
        _kvm.Cpu.Enter();
        Assert.Equal(new byte[] { 0xAA, 0xBB, 0xCC, 0xDD }, new ReadOnlySpan<byte>(_kvm.Run->MmioData, 4).ToArray());
    }

    [Theory, InlineData(false), InlineData(true)]
    public void An_MSR_is_answered_or_faults(bool fault)
    {
        _kvm.ThenExit(KvmExit.ReadMsr, () => _kvm.Run->MsrIndex = 0x80B);
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Msr, false, 0x80Bul), (e.Reason, e.IsWrite, e.Address));
        (e.Data, e.Fault) = (0x1234_5678_9ABC, fault);
        _kvm.ThenExit(KvmExit.WriteMsr, () =>
        {
            Assert.Equal((fault ? 1 : 0, 0x1234_5678_9ABCul), (_kvm.Run->MsrError, _kvm.Run->MsrData));
            (_kvm.Run->MsrIndex, _kvm.Run->MsrData) = (0x830, 0x55);
        });
        e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Msr, true, 0x830ul, 0x55ul, false), (e.Reason, e.IsWrite, e.Address, e.Data, e.Fault));
    }

    [Theory]
    [InlineData(nameof(KvmExit.Hlt), ExitReason.Hlt)]
    [InlineData(nameof(KvmExit.Shutdown), ExitReason.TripleFault)]
    [InlineData(nameof(KvmExit.InterruptWindowOpen), ExitReason.InterruptWindow)]
    public void Exits_without_operands(string reason, ExitReason expected)
    {
        _kvm.ThenExit(Enum.Parse<KvmExit>(reason));
        Assert.Equal(expected, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void An_emulation_failure_shows_the_instruction_and_the_state()
    {
        _kvm.ThenExit(KvmExit.InternalError, () =>
        {
            KvmRun* run = _kvm.Run;
            (run->InternalSuberror, run->InternalCount, run->InternalData[0], run->InstructionSize) = (1, 3, 1, 2);
            (run->InstructionBytes[0], run->InstructionBytes[1]) = (0x0F, 0xA2);
        });
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal(ExitReason.InternalError, e.Reason);
        Assert.Contains("KVM_EXIT_INTERNAL_ERROR 1", e.Message, StringComparison.Ordinal);
        Assert.Contains("bytes 0FA2;", e.Message, StringComparison.Ordinal);
        Assert.Contains("RIP=", e.Message, StringComparison.Ordinal);
        Assert.Contains("CR3=", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_failed_entry_shows_the_hardwares_reason()
    {
        _kvm.ThenExit(KvmExit.FailEntry, () => _kvm.Run->HardwareReason = 0x8000_0021);
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal(ExitReason.InternalError, e.Reason);
        Assert.Contains("KVM_EXIT_FAIL_ENTRY", e.Message, StringComparison.Ordinal);
        Assert.Contains("0x80000021", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_exit_that_nobody_knows_is_an_error()
    {
        _kvm.ThenExit((KvmExit)99);
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal(ExitReason.InternalError, e.Reason);
        Assert.Contains("99", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1u, 4u, 12287ul)]
    [InlineData(uint.MaxValue, 4u, 4096ul)]
    [InlineData(1u, 3u, 4096ul)]
    [InlineData(1u, 4u, ulong.MaxValue)]
    public void Data_outside_of_the_run_structure_are_refused(uint count, uint size, ulong offset)
    {
        _kvm.ThenExit(KvmExit.Io, () => (_kvm.Run->IoCount, _kvm.Run->IoSize, _kvm.Run->IoDataOffset) = (count, (byte)size, offset));
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal(ExitReason.InternalError, e.Reason);
        Assert.Contains("KVM_EXIT_IO", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_change_of_CR8_comes_before_the_exit_that_shows_it()
    {
        ThenIo(true, 0x80, 1, 7);
        _kvm.Run->Cr8 = 0;
        FakeVcpu.RunStep io = _kvm.Script.Dequeue();
        _kvm.Then(run =>
        {
            run->Cr8 = 9;
            return io(run);
        });
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.CrAccess, true, 8ul, 9ul), (e.Reason, e.IsWrite, e.Address, e.Data));
        Assert.False(_kvm.Cpu.InterruptWindowOpen);
        e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Io, 0x80ul, 7ul), (e.Reason, e.Address, e.Data));

        _kvm.Cpu.SetTaskPriority(3);
        _kvm.ThenExit(KvmExit.Hlt, () => Assert.Equal(3ul, _kvm.Run->Cr8));
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void State_that_is_read_after_a_write_has_the_instruction_behind_it()
    {
        ThenIo(true, 0x80, 1, 7);
        _kvm.Cpu.Enter();
        _kvm.ThenReturn();
        _kvm.Cpu.ReadState(new CpuState());
        Assert.Empty(_kvm.Script);
        _kvm.Cpu.ReadState(new CpuState()); // once is enough
        _kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void The_rest_of_an_instruction_that_was_finished_for_its_state_is_the_next_exit()
    {
        ThenMmio(true, 0xFEB0_0FFC, 1, 2, 3, 4);
        _kvm.Cpu.Enter();
        _kvm.Then(run =>
        {
            Assert.Equal(1, run->ImmediateExit);
            (run->MmioAddress, run->MmioData[0]) = (0xFEB0_1000, 5);
            return 0;
        });
        _kvm.Cpu.ReadState(new CpuState());
        X86Exit e = _kvm.Cpu.Enter();
        Assert.Equal((ExitReason.Mmio, 0xFEB0_1000ul, 0x04030205ul), (e.Reason, e.Address, e.Data));
    }

    // ---- kicks

    [Fact]
    public void A_kick_before_the_entry_ends_it()
    {
        _kvm.Cpu.Kick();
        _kvm.ThenReturn();
        Assert.Equal(ExitReason.Kicked, _kvm.Cpu.Enter().Reason);
        _kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void A_kick_that_comes_together_with_an_exit_is_not_lost()
    {
        _kvm.ThenExit(KvmExit.Hlt, _kvm.Cpu.Kick);
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
        _kvm.ThenReturn();
        Assert.Equal(ExitReason.Kicked, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void A_kick_while_an_instruction_is_finished_is_not_lost()
    {
        ThenIo(true, 0x80, 1, 7);
        _kvm.Cpu.Enter();
        _kvm.Then(_ =>
        {
            _kvm.Cpu.Kick();
            return -Errno.Interrupted;
        });
        _kvm.Cpu.ReadState(new CpuState());
        _kvm.ThenReturn();
        Assert.Equal(ExitReason.Kicked, _kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void A_signal_of_somebody_else_is_no_exit()
    {
        _kvm.Then(_ => -Errno.Interrupted);
        _kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(ExitReason.Hlt, _kvm.Cpu.Enter().Reason);
    }

    // ---- windows

    [Fact]
    public void The_interrupt_window_is_asked_for_and_closes_with_the_injection()
    {
        _kvm.Cpu.Controls = new ExecutionControls(InterruptWindowExiting: true);
        _kvm.ThenExit(KvmExit.InterruptWindowOpen, () =>
        {
            Assert.Equal(1, _kvm.Run->RequestInterruptWindow);
            _kvm.Run->ReadyForInterruptInjection = 1;
        });
        Assert.Equal(ExitReason.InterruptWindow, _kvm.Cpu.Enter().Reason);
        Assert.True(_kvm.Cpu.InterruptWindowOpen);
        _kvm.Cpu.InjectInterrupt(0x20);
        Assert.False(_kvm.Cpu.InterruptWindowOpen);
        Assert.Throws<InvalidOperationException>(() => _kvm.Cpu.InjectInterrupt(0x21));
        Assert.Single(_kvm.Log, "KVM_INTERRUPT");
    }
}
